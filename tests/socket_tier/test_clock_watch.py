"""How a node learns the time, from a Redis and workers that are handed in."""

import time
from typing import Any

import pytest

from models.runtime.clock import SharedClock
from models.runtime.settings import load
from models.wire.loads import SharedTime
from models.wire.notices import WorkerHeartbeat
from socket_tier.clock_watch import ClockWatch
from socket_tier.metrics import NodeMetrics

NOON_US = 1_800_000_000_000_000


class Told:
    """Stands for Redis, whose clock is at noon since the start of the test."""

    def __init__(self, told: SharedTime | None) -> None:
        self._began_ns = time.monotonic_ns()
        self._told = told

    async def time(self) -> tuple[int, SharedTime | None]:
        return NOON_US + (time.monotonic_ns() - self._began_ns) // 1000, self._told


def watch(told: SharedTime | None) -> tuple[ClockWatch, SharedClock]:
    settings = load()
    clock, redis = SharedClock(), Told(told)
    metrics = NodeMetrics(settings.metrics, "node", "test")
    return ClockWatch(clock, redis, metrics, 1), clock  # type: ignore[arg-type]


def beat(at_us: int, **more: Any) -> WorkerHeartbeat:
    return WorkerHeartbeat("worker-1/votes", at_us, ("votes",), "connected", 1, **more)


async def test_a_node_has_the_time_of_redis_and_what_workers_say_of_it() -> None:
    node, clock = watch(SharedTime(ahead_us=3_000_000, error_us=200, at_us=NOON_US - 1_000_000))
    await node.measure()
    assert node.known.is_set() and node.in_bound()
    assert 0 <= clock.now_us() - (NOON_US + 3_000_000) < 30_000_000
    # What was told a second ago is 0.1 ms less exact
    assert node.error_ms() is not None and node.error_ms() >= 0.3  # type: ignore[operator]


@pytest.mark.parametrize("told", [None, SharedTime(0, 200, NOON_US + 600_000_000)])
async def test_what_nobody_has_told_or_was_told_before_redis_clock_was_set_back_is_no_time(
    told: SharedTime | None,
) -> None:
    node, clock = watch(told)
    await node.measure()
    assert not node.known.is_set() and clock.error_us() is None


async def test_a_heartbeat_gives_the_time_to_a_node_that_has_none_and_to_no_other() -> None:
    # Given a node that finds nothing in Redis
    node, clock = watch(None)
    # When a worker says that it does not know the time, then it goes on without
    node.heard(beat(NOON_US, clock_error_us=-1))
    assert not node.known.is_set()
    # When one does know it
    node.heard(beat(NOON_US, clock_error_us=100))
    assert node.in_bound() and 0 <= clock.now_us() - NOON_US < 30_000_000
    # Then others change nothing any more
    for later in (beat(NOON_US + 900_000_000, clock_error_us=1), beat(NOON_US + 900_000_000)):
        node.heard(later)
    assert clock.now_us() - NOON_US < 30_000_000


async def test_a_worker_of_an_earlier_version_is_better_than_none() -> None:
    node, clock = watch(None)
    node.heard(beat(NOON_US))
    assert node.in_bound() and 0 <= clock.now_us() - NOON_US < 30_000_000
