"""Makes the limits of addresses and rooms hold over all nodes, by counters in Redis that no request waits for."""

import asyncio
import logging
import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from models.runtime import tls
from models.runtime.settings import RedisSettings
from socket_tier.limits import Allowance, Limits
from socket_tier.metrics import NodeMetrics

log = logging.getLogger(__name__)

_ROUND_S = 0.4
_PER_ROUND = 200  # debtors a round; the others' turn comes as their debts grow
_AT_A_TIME = 8
_PAUSE_AFTER_FAILURE_S = 2.0


class SharedLimits:
    """Pays every debt of this node into a sliding window that all nodes share.

    Whoever can't pay is refused here until the window has room again, so what all nodes grant stays within the limit,
    but for what they granted since their last round. With Redis away each node limits by itself, which is counted.
    """

    def __init__(self, settings: RedisSettings, limits: Limits, metrics: NodeMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._timeout_s = settings.timeout_s
        self._connections = ConnectionPool.from_url(
            settings.url,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            **tls.redis_options(settings),
        )
        storage = RedisStorage(
            settings.url,
            implementation="redispy",
            key_prefix="limits",
            connection_pool=self._connections,  # type: ignore[arg-type]
        )
        self._windows = SlidingWindowCounterRateLimiter(storage)
        self._paused_until = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            self._limits.refill(time.monotonic())
            await self.pay()

    async def pay(self) -> None:
        """One round. Ends within about the time-out of Redis."""
        debtors = self._limits.debtors(_PER_ROUND)
        if not debtors or time.monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                for start in range(0, len(debtors), _AT_A_TIME):
                    some = debtors[start : start + _AT_A_TIME]
                    for failure in await asyncio.gather(*map(self._pay, some), return_exceptions=True):
                        if failure is not None:
                            raise failure
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            # RuntimeError: what uvloop raises on a connection that was reset.
            self._paused_until = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            self._metrics.count("limits.not_shared")
            self._limits.forgive()
            log.warning("limits_not_shared", extra={"debtors": len(debtors), "error": repr(error)})

    async def close(self) -> None:
        await self._connections.aclose()

    async def _pay(self, debtor: Allowance) -> None:
        policy = debtor.policy
        item = RateLimitItemPerSecond(policy.burst, policy.window_s, namespace=policy.name)
        if debtor.overdrawn:
            # A part of it, so that nodes that owe little don't always come first.
            room = (await self._windows.get_window_stats(item, debtor.subject)).remaining
            cost = min(debtor.debt, room)
        else:
            cost = debtor.debt
        if cost and await self._windows.hit(item, debtor.subject, cost=cost):
            debtor.debt -= cost
            debtor.overdrawn = debtor.debt > 0
        else:
            debtor.overdraw()
