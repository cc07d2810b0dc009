"""When participants' last choices are written: folded while somebody keeps voting, at once when somebody leaves."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from models.wire.commands import CastVote
from socket_tier import choices as module
from socket_tier.choices import Choices
from socket_tier.rooms import Member
from tests.socket_tier.waiting import eventually


class Written:
    """Takes what would go to Redis."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[str, int, int]]]] = []

    async def store_choices(self, room_code: str, choices: list[tuple[str, int, int]]) -> None:
        self.calls.append((room_code, choices))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written for want of time."""
    monkeypatch.setattr(module, "_WRITE_EVERY_S", 600)
    monkeypatch.setattr(module, "_WRITE_EVERY_MOST_S", 600)


def vote(member: Member, option: int, seq: int) -> CastVote:
    return CastVote(7, member.participant_id, option, seq, seq)


@pytest.mark.usefixtures("patient")
async def test_of_many_choices_the_last_is_written_as_soon_as_somebody_leaves() -> None:
    cache = Written()
    choices = Choices(cast(Any, cache), cast(Any, SimpleNamespace()), uuid4())
    running = asyncio.create_task(choices.run())
    await asyncio.sleep(0)
    ada = Member(uuid4(), "Ada")
    # Given somebody who has changed her mind twice
    for seq, option in enumerate((0, 2, 1), 1):
        choices.note("ABC234", ada, vote(ada, option, seq))
    # When she leaves
    choices.hurry()
    # Then whoever she comes to next finds her last choice, written once
    await eventually(lambda: cache.calls, "the write")
    assert cache.calls == [("ABC234", [(ada.key, 1, 3)])]
    running.cancel()
