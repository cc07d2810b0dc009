"""How far this machine's clock is from Redis': votes and their results are told by clocks, so all must agree."""

import time

from socket_tier.cache import Cache
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable

_LOOK_EVERY_S = 10.0


class ClockWatch:
    """``refresh`` is called about once a second, and looks now and then."""

    def __init__(self, cache: Cache, metrics: NodeMetrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._next_look = 0.0

    async def refresh(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        asked_at = time.time()
        try:
            there = await self._cache.server_time()
        except CacheUnavailable:
            return  # counted there
        self._metrics.gauge("clock.ahead_ms", ((asked_at + time.time()) / 2 - there) * 1000)
