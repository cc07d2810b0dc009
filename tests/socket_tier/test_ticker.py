"""The tick: one update per room and tick, the newest, and never an older one after it."""

import asyncio
from typing import Any

import pytest

from models.runtime.settings import load
from socket_tier.metrics import NodeMetrics
from socket_tier.ticker import Ticker
from tests.socket_tier.waiting import eventually

TICK_S = 0.05


class Room:
    """Takes what is delivered."""

    def __init__(
        self, tick_s: float = TICK_S, members: int = 0, member_s: float = 0.0, frames_per_s: int = 5000
    ) -> None:
        self.delivered: list[tuple[str, int]] = []
        self.ticker = Ticker(
            lambda _code: members,
            self._deliver,
            NodeMetrics(load().metrics, "node", "test"),
            tick_s=tick_s,
            member_s=member_s,
            frames_per_s=frames_per_s,
        )

    def offer(self, version: int, code: str = "ABC234", *, final: bool = False) -> None:
        self.ticker.offer(code, version, {"version": version, "final": final})

    async def _deliver(self, code: str, payload: dict[str, Any]) -> None:
        self.delivered.append((code, payload["version"]))

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


async def test_many_busy_rooms_take_turns_within_what_a_node_can_afford() -> None:
    # Given rooms of which each frame round takes a twentieth of a second of what is affordable
    stage = Room(tick_s=0.01, members=100, frames_per_s=2_000)
    codes = [f"ROOM{number:02}" for number in range(20)]
    began = asyncio.get_running_loop().time()
    # When all of them change
    for code in codes:
        stage.offer(1, code)
    # Then a few go at once, and the others one after the other
    await asyncio.sleep(0)
    assert len(stage.delivered) <= 5
    await eventually(lambda: len(stage.delivered) == 20, "every room's turn")
    assert [code for code, _ in stage.delivered] == codes
    assert asyncio.get_running_loop().time() - began > 0.7


async def test_final_totals_go_ahead_of_all_that_wait_for_their_turn() -> None:
    stage = Room(tick_s=0.01, members=100, frames_per_s=100)
    for number in range(5):
        stage.offer(1, f"ROOM{number:02}")
    stage.offer(2, "ROOM04", final=True)
    await eventually(lambda: ("ROOM03", 1) in stage.delivered, "the turn of the room before it")
    assert stage.delivered.index(("ROOM04", 2)) < stage.delivered.index(("ROOM03", 1))
    assert ("ROOM04", 1) not in stage.delivered


async def test_a_large_room_has_a_longer_tick() -> None:
    room = Room(tick_s=0.01, members=10_000, member_s=0.00005)
    began = asyncio.get_running_loop().time()
    room.offer(1)
    room.offer(2)
    await eventually(lambda: room.versions() == [1, 2], "both")
    assert asyncio.get_running_loop().time() - began > 0.45
