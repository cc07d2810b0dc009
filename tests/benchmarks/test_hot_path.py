"""A vote's steps in a node, one by one: ``scripts/test tests/benchmarks --benchmark-enable`` times them.

Without that option each runs once, and only what it does is checked.
"""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from models.wire.commands import CastVote, VoteBatch
from models.wire.envelope import Envelope, wrap
from socket_tier.rooms import Member
from socket_tier.transport.frames import text_frame
from socket_tier.transport.lane import VoteLane

VOTES = 500
PARTICIPANT = UUID("0190d9c0-3ad8-7abc-8def-0123456789ab")
ROOM = "ABC234"
MESSAGE = b'427["submit-vote",{"roomCode":"%b","participantId":"%b","optionIndex":2}]' % (
    ROOM.encode(),
    str(PARTICIPANT).encode(),
)


class Buffer:
    """Takes a vote as the real one does, and holds only the last."""

    last: CastVote | None = None

    def add(self, vote: CastVote, receipt: object) -> None:
        self.last = vote


def ignore(*_: object) -> None:
    """Whatever else the lane tells."""


@pytest.fixture
def seat() -> Any:
    """A socket whose voter has joined an open poll of four options."""
    poll = SimpleNamespace(poll_id=7, options=("a", "b", "c", "d"))
    endless = SimpleNamespace(left=float("inf"))
    room = SimpleNamespace(
        code=ROOM, poll=poll, open_since_us=lambda _: 1, votes=endless, vote_stands=False, unheard=False
    )
    member = Member(PARTICIPANT, "Ann")
    session = SimpleNamespace(sid="s", participants={ROOM: (room, member)}, address_votes=endless)
    return SimpleNamespace(voter=session, push=ignore)


async def test_the_lane_decodes_a_vote_and_hands_it_over(benchmark, seat):
    buffer = Buffer()
    shedding = SimpleNamespace(vote=ignore)
    lane = VoteLane(cast(Any, buffer), cast(Any, SimpleNamespace(note=ignore)), cast(Any, shedding), 64, ignore)
    assert benchmark(lane, seat, MESSAGE) is True
    assert buffer.last is not None
    assert (buffer.last.poll_id, buffer.last.participant_id, buffer.last.option_index) == (7, PARTICIPANT, 2)
    await asyncio.sleep(0)


def test_a_batch_is_wrapped_for_the_worker(benchmark):
    votes = tuple(CastVote(7, UUID(int=number + 1), number % 4, 10**15, 10**15 + number) for number in range(VOTES))
    batch = VoteBatch(UUID(int=1), UUID(int=2), votes)
    queue, body = benchmark(wrap, batch)
    envelope = msgspec.json.decode(body, type=Envelope)
    assert queue == envelope.queue_name == "votes"
    assert len(envelope.args[0]["votes"]) == VOTES


@pytest.mark.parametrize("size", [60, 400, 70_000])
def test_a_frame_is_made_once_for_everybody(benchmark, size):
    payload = b"x" * size
    assert benchmark(text_frame, payload).endswith(payload)
