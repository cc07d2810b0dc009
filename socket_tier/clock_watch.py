"""Keeps this node in the shared time (``models.runtime.clock``), and says how well it knows it."""

import asyncio
import time

from models.runtime.clock import DRIFT_PPM, SharedClock
from models.wire.notices import WorkerHeartbeat
from socket_tier.cache import Cache
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable

_MEASURE_EVERY_S = 1.0
_AT_ONCE_US = 10_000  # a worker may tell anew between the two questions
_ON_ITS_WAY_US = 500_000  # what a heartbeat takes at most, while nothing better is known


class ClockWatch:
    """``known`` is set when this node has the time for the first time, and stays."""

    def __init__(self, clock: SharedClock, cache: Cache, metrics: NodeMetrics, max_error_s: float) -> None:
        self._clock = clock
        self._cache = cache
        self._metrics = metrics
        self._max_error_us = max_error_s * 1e6
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Measure again and again. Without Redis or workers the monotonic clock goes on, and the error grows."""
        while True:
            try:
                await self.measure()
            except CacheUnavailable:
                pass  # counted there
            self._tell()
            await asyncio.sleep(_MEASURE_EVERY_S)

    async def measure(self) -> None:
        """Once.

        :raises CacheUnavailable:
        """
        asked_ns = time.monotonic_ns()
        redis_us, told = await self._cache.time()
        answered_ns = time.monotonic_ns()
        # Told in Redis' future: its clock has been set, and nobody has said yet by how much.
        if told is not None and (age_us := redis_us - told.at_us) > -_AT_ONCE_US:
            error_us = told.error_us + abs(age_us) * DRIFT_PPM / 1e6
            self._learn(redis_us + told.ahead_us, asked_ns, answered_ns, error_us)

    def heard(self, beat: WorkerHeartbeat) -> None:
        """A worker's own time, in place of Redis' while this node has none, or has gone without for too long."""
        error_us = beat.clock_error_us
        if error_us is None:  # a worker of an earlier version goes by its machine's clock, as nodes did then
            error_us = _ON_ITS_WAY_US if self._clock.error_us() is None else -1
        if error_us >= 0 and not self.in_bound():
            heard_ns = time.monotonic_ns()
            error_us += _ON_ITS_WAY_US / 2
            self._learn(beat.at_us + _ON_ITS_WAY_US // 2, heard_ns, heard_ns, error_us)

    def error_ms(self) -> float | None:
        """How far this node's time may be from the shared one; None before the first measurement."""
        error_us = self._clock.error_us()
        return None if error_us is None else error_us / 1000

    def in_bound(self) -> bool:
        """Whether the time is known as well as it must be."""
        error_us = self._clock.error_us()
        return error_us is not None and error_us <= self._max_error_us

    def _learn(self, there_us: int, asked_ns: int, answered_ns: int, error_us: float) -> None:
        self._clock.learn(there_us, asked_ns, answered_ns, error_us)
        self.known.set()

    def _tell(self) -> None:
        self._metrics.gauge("clock.unknown", float(not self.in_bound()))
        if (error_ms := self.error_ms()) is not None:
            self._metrics.gauge("clock.error_ms", error_ms)
            self._metrics.gauge("clock.ahead_ms", self._clock.wall_ahead_ms())
