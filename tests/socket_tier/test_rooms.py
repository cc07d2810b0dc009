"""Rooms that a node knows: a poll whose retention is over is known no more, and its code may stand for another."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from models.runtime.clock import now_us
from models.runtime.settings import load
from models.wire import names
from models.wire.commands import RestoreRoom
from models.wire.notices import RoomRestored
from models.wire.polls import PollRules, PollSnapshot, PollState, Results
from socket_tier.cache import Cache
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import Invalid
from socket_tier.rooms import Room, Rooms

DAY_US = 86_400_000_000
CODE = "QWERT2"


class Workers:
    """Answer requests to restore a room with what the database has."""

    def __init__(self) -> None:
        self.poll: PollSnapshot | None = None

    async def request(self, command: RestoreRoom, request_id: UUID) -> RoomRestored:
        return RoomRestored(request_id, self.poll)


def poll(poll_id: int, expires_at_us: int) -> PollSnapshot:
    return PollSnapshot(
        poll_id=poll_id, room_code=CODE, question="Tea?", options=("yes", "no"), state=PollState.OPEN, version=poll_id,
        votes=(0, 0), final=False, created_at_us=1, state_changed_at_us=poll_id, expires_at_us=expires_at_us,
    )  # fmt: skip


@pytest.fixture
async def pipeline(redis_url: str) -> AsyncIterator[RedisPipeline]:
    """To a database in which no node looks for rooms."""
    settings = msgspec.structs.replace(load().redis, url=redis_url.removesuffix("/0") + "/1")
    pipeline = RedisPipeline(settings, NodeMetrics(load().metrics, "node", "test"))
    await pipeline.call("DEL", names.room_key(CODE))
    yield pipeline
    await pipeline.call("DEL", names.room_key(CODE))
    await pipeline.close()


def rooms_beside(pipeline: RedisPipeline, workers: Workers) -> Rooms:
    settings = load()
    metrics = NodeMetrics(settings.metrics, "node", "test")
    limits = Limits(settings.limits, metrics)
    return Rooms(Cache(pipeline, 60), cast(Any, workers), uuid4(), settings.room, limits, metrics)


def room(**more: Any) -> Room:
    open_poll = msgspec.structs.replace(poll(1, 0), state_changed_at_us=5, opened_at_us=5, votes=(3, 1), **more)
    return Room(open_poll, cast(Any, SimpleNamespace()))


def test_no_vote_is_taken_from_the_very_moment_on_at_which_a_periods_time_is_over() -> None:
    timed = room(rules=PollRules(close_after_s=2))
    assert (timed.open_since_us(2_000_004), timed.open_since_us(2_000_005)) == (5, None)
    assert room().open_since_us(2_000_005) == 5


def test_a_close_that_is_on_its_way_shows_nobody_the_totals_that_wait_for_it() -> None:
    here = room(rules=PollRules(Results.AFTER_CLOSE))
    here.closing_us = here.next_change_us()
    assert (here.state, here.view(seen=False)["votes"]) == (PollState.CLOSED, [0, 0])
    here.learn(msgspec.structs.replace(here.poll, state=PollState.CLOSED, state_changed_at_us=here.closing_us))
    assert here.view(seen=False)["votes"] == [3, 1]


def test_totals_are_hidden_as_the_state_asks_that_they_belong_to() -> None:
    # Given a closed poll that shows its totals after the close
    here = room(rules=PollRules(Results.AFTER_CLOSE), state=PollState.CLOSED, version=7)
    assert not here.hides_totals
    # When newer ones come from a poll that is open again, of which nobody has told this node
    here.learn_totals(9, [3, 2], False, PollState.OPEN)
    assert here.view(seen=False)["votes"] == here.update(seen=False)["votes"] == [0, 0]
    # Then the news, which comes late, changes nothing in that, nor do older totals
    here.learn(msgspec.structs.replace(here.poll, state=PollState.OPEN, state_changed_at_us=8, version=8, votes=(3, 1)))
    here.learn_totals(7, [3, 1], True, PollState.CLOSED)
    assert (here.view(seen=False)["votes"], here.poll.votes) == ([0, 0], (3, 2))
    # And totals of a closed poll are shown before the close is heard of
    here.learn_totals(10, [3, 2], True, PollState.CLOSED)
    assert here.view(seen=False)["votes"] == [3, 2]
    # And those of a worker of before, which doesn't tell, as the state asks that the node knows
    here.learn_totals(11, [3, 3], True, None)
    assert here.hides_totals


async def test_rooms_are_read_before_they_take_votes_again_when_notices_may_have_been_missed(
    pipeline: RedisPipeline,
) -> None:
    rooms = rooms_beside(pipeline, Workers())
    unread: list[Room] = []
    rooms.on_unread = unread.append
    here = rooms.add(poll(1, 0))
    # While the node is deaf no room takes a vote, nor one that it comes to know meanwhile
    rooms.hearing_changed(False)
    assert here.unheard
    rooms.hearing_changed(True)
    assert not here.unheard
    # When it hears again and something may have been missed, each has to be read
    rooms.hearing_changed(False)
    rooms.may_have_missed()
    rooms.hearing_changed(True)
    assert here.unheard and rooms.unread() == [here]
    # By a reading that was begun after the gap
    rooms.was_read(here, rooms.gaps - 1)
    assert here.unheard
    rooms.was_read(here, rooms.gaps)
    assert not here.unheard and rooms.unread() == []
    # And whoever enters one that was forgotten meanwhile has it read
    rooms.forget_unused()
    rooms.may_have_missed()
    rooms.hold(here, "somebody")
    assert here.unheard and unread == [here]


async def test_who_is_in_a_room_is_told_of_a_change_that_a_read_has_brought(pipeline: RedisPipeline) -> None:
    rooms = rooms_beside(pipeline, Workers())
    told: list[tuple[Room, PollState]] = []
    rooms.on_changed = lambda room, previous: told.append((room, previous))
    opened = poll(1, 0)
    closed = msgspec.structs.replace(opened, state=PollState.CLOSED, state_changed_at_us=9)
    here = rooms.add(opened)
    here.sids.add("somebody")
    for way in (
        lambda: rooms.add(closed),
        lambda: rooms.add(opened, closing_us=99),
        lambda: rooms.learn(closed),
    ):
        here.poll, here.closing_us = opened, 0
        way()
        assert told.pop() == (here, PollState.OPEN)
    rooms.add(here.poll)
    assert told == []


@pytest.mark.proves("FR-005")
async def test_a_room_whose_polls_retention_is_over_is_read_anew_and_may_be_another_polls(
    pipeline: RedisPipeline,
) -> None:
    workers = Workers()
    rooms = rooms_beside(pipeline, workers)
    # Given a poll that is over, in this node's memory, with somebody in it, and in Redis
    over = poll(1, now_us() - 1)
    old = rooms.add(over)
    old.members[uuid4()] = cast(Any, SimpleNamespace())
    await pipeline.call("HSET", names.room_key(CODE), "version", 1, "snapshot", msgspec.json.encode(over))
    # Then nobody is let in any more
    with pytest.raises(Invalid, match="Poll not found"):
        await rooms.find(CODE)
    rooms._missing.clear()
    # And when another poll has got the code, then its room is a new one
    workers.poll = poll(2, now_us() + DAY_US)
    new = await rooms.find(CODE)
    assert (new.poll.poll_id, new.members, old.poll.poll_id) == (2, {}, 1)
    # Into which news of the old one doesn't come, nor the other way round
    assert not new.learn(msgspec.structs.replace(over, state=PollState.CLOSED, state_changed_at_us=9))
    assert new.state is PollState.OPEN
    assert await rooms.find(CODE) is new
