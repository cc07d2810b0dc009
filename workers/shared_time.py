"""Tells Redis by how much the shared time is ahead of its clock, for nodes, which never talk to PostgreSQL."""

import time

from models.runtime.clock import SharedClock
from models.wire.loads import SharedTime
from workers.metrics import WorkerMetrics
from workers.rooms import Rooms


class TimeTeller:
    """Every worker does it: each says the same, within the error that it tells.

    What is there stays while no worker knows the time. It is true for as long as nobody sets a clock.
    """

    EVERY_S = 1.0

    def __init__(self, clock: SharedClock, rooms: Rooms, metrics: WorkerMetrics, max_error_s: float) -> None:
        self._clock = clock
        self._rooms = rooms
        self._metrics = metrics
        self._max_error_us = max_error_s * 1e6

    def round(self) -> None:
        """:raises redis.RedisError:"""
        error_us = self._clock.error_us()
        known = error_us is not None and error_us <= self._max_error_us
        self._metrics.gauge("clock.unknown", float(not known))
        if error_us is None:
            return
        self._metrics.gauge("clock.error_ms", error_us / 1000)
        self._metrics.gauge("clock.ahead_ms", self._clock.wall_ahead_ms())
        if known:
            self._tell(error_us)

    def _tell(self, error_us: float) -> None:
        began = time.monotonic_ns()
        before_us = self._clock.now_us()
        redis_us = self._rooms.server_time_us()
        took_us = (time.monotonic_ns() - began) / 1000
        ahead_us = round(before_us + took_us / 2) - redis_us
        self._rooms.tell_time(SharedTime(ahead_us, round(error_us + took_us / 2) + 1, redis_us))
