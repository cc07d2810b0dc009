"""The tick: one update per room and tick, the newest, and never an older one after it."""

import asyncio
from typing import Any

import pytest

from models.runtime.settings import load
from socket_tier.metrics import NodeMetrics
from socket_tier.results import Ticker
from tests.socket_tier.waiting import eventually

TICK_S = 0.05


class Room:
    """Takes what is delivered."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.delivered: list[tuple[str, int]] = []
        self.ticker = Ticker(lambda _code: tick_s, self._deliver, NodeMetrics(load().metrics, "node", "test"))

    def offer(self, version: int, code: str = "ABC234") -> None:
        self.ticker.offer(code, version, {"version": version})

    async def _deliver(self, code: str, payload: dict[str, Any]) -> int:
        self.delivered.append((code, payload["version"]))
        return 1

    def versions(self) -> list[int]:
        return [version for _, version in self.delivered]


async def test_the_first_goes_at_once_and_the_newest_at_the_end_of_the_tick() -> None:
    room = Room()
    for version in range(1, 50):
        room.offer(version)
    await eventually(lambda: room.versions() == [1, 49], "the first and the last")
    await asyncio.sleep(TICK_S * 3)
    assert room.versions() == [1, 49]


@pytest.mark.parametrize("older", [4, 1])
async def test_an_older_version_is_dropped(older: int) -> None:
    room = Room()
    room.offer(5)
    room.offer(older)
    room.offer(7)
    room.offer(6)
    await eventually(lambda: len(room.delivered) == 2, "two updates")
    room.offer(older)
    await asyncio.sleep(TICK_S * 3)
    assert room.versions() == [5, 7]


async def test_a_repeat_of_the_newest_is_sent_again() -> None:
    room = Room()
    room.offer(5)
    await eventually(lambda: room.versions() == [5], "the first")
    room.offer(5)
    await eventually(lambda: room.versions() == [5, 5], "the repeat")


async def test_rooms_dont_wait_for_each_other() -> None:
    room = Room(tick_s=30)
    room.offer(1, "AAAAAA")
    room.offer(1, "BBBBBB")
    await eventually(lambda: len(room.delivered) == 2, "both rooms")


async def test_a_room_that_was_left_is_sent_nothing_more() -> None:
    room = Room()
    room.offer(1)
    room.offer(2)
    await eventually(lambda: room.versions() == [1], "the first")
    room.ticker.forget("ABC234")
    await asyncio.sleep(TICK_S * 3)
    assert room.versions() == [1]


async def test_ticks_stretch_while_all_rooms_together_get_more_than_is_affordable() -> None:
    ticker = Ticker(lambda _code: TICK_S, Members(300).deliver, NodeMetrics(load().metrics, "node", "test"), 1_000)
    # Given a demand of three times what is affordable, which falls as the stretch rises
    for second in range(1, 40):
        for number in range(round(10 / ticker.stretch)):
            ticker.offer(f"ROOM{second}-{number}", 1, {"version": 1})
        await asyncio.sleep(0.001)
        ticker.fit(1.0)
    assert 2 < ticker.stretch < 4
    # When the rush is over
    for _ in range(20):
        ticker.fit(1.0)
    # Then ticks are what they were
    assert ticker.stretch == 1


class Members:
    """A room's members on this node, who take everything."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def deliver(self, _code: str, _payload: dict[str, Any]) -> int:
        return self._count
