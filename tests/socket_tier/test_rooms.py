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
    here.note_closing(here.next_change_us())
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


def test_a_period_that_the_clock_has_ended_begins_anew_with_another_end() -> None:
    """The end of one period must not hold up the next, which may have been asked for before it."""
    timed = room(rules=PollRules(close_after_s=2))
    timed.ended_us = timed.closes_at_us
    assert (timed.state, timed.open_since_us(10), timed.view(seen=True)["closesAt"]) == (PollState.CLOSED, None, None)
    assert timed.next_change_us() > timed.closes_at_us
    timed.learn(msgspec.structs.replace(timed.poll, state_changed_at_us=1_000_000, opened_at_us=1_500_000))
    assert (timed.state, timed.open_since_us(2_000_006)) == (PollState.OPEN, 1_500_000)


def test_changes_asked_for_one_after_the_other_are_in_that_order_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = room()
    monkeypatch.setattr("socket_tier.rooms.now_us", lambda: 3)
    asked = [here.next_change_us() for _ in range(3)]
    here.note_closing(90)
    asked.append(here.next_change_us())
    here.learn(msgspec.structs.replace(here.poll, state_changed_at_us=200))
    asked.append(here.next_change_us())
    assert asked == [6, 7, 8, 91, 201]


def test_a_state_that_is_older_than_what_is_known_is_ignored_and_one_that_is_as_old_is_not() -> None:
    here = room()
    older = msgspec.structs.replace(here.poll, state=PollState.CLOSED, state_changed_at_us=4, version=9, votes=(9, 9))
    assert not here.learn(older)
    assert (here.state, here.poll.version, here.poll.votes) == (PollState.OPEN, 1, (3, 1))
    assert here.learn(msgspec.structs.replace(older, state_changed_at_us=5))
    assert here.state is PollState.CLOSED


def test_a_change_of_state_that_comes_behind_newer_totals_keeps_them() -> None:
    here = room()
    here.learn_totals(7, [4, 2], True, PollState.CLOSED)
    here.learn_totals(6, [4, 1], False, PollState.OPEN)
    assert here.learn(msgspec.structs.replace(here.poll, state=PollState.CLOSED, state_changed_at_us=6, version=6,
                                              votes=(4, 1), final=False))  # fmt: skip
    known = here.poll
    assert (known.state, known.version, known.votes, known.final) == (PollState.CLOSED, 7, (4, 2), True)
    here.learn(msgspec.structs.replace(known, version=8, votes=(5, 2), final=False))
    assert (here.poll.version, here.poll.votes, here.poll.final) == (8, (5, 2), False)


def test_a_snapshot_from_before_a_revocation_brings_no_host_back() -> None:
    browser = uuid4()
    here = room(token_generation=2)
    here.learn(msgspec.structs.replace(here.poll, version=2, token_generation=1, host_browsers=(browser,)))
    assert (here.poll.version, here.poll.token_generation, here.poll.host_browsers) == (2, 2, ())


async def test_of_several_closes_on_their_way_redis_keeps_the_latest(pipeline: RedisPipeline) -> None:
    cache = Cache(pipeline, 60)
    await cache.note_closing(CODE, 50)
    assert await cache.room(CODE) is None  # a room must not come to exist by that
    await pipeline.call("HSET", names.room_key(CODE), "version", 1, "snapshot", msgspec.json.encode(poll(1, 0)))
    for at_us in (50, 90, 70):
        await cache.note_closing(CODE, at_us)
    cached = await cache.room(CODE)
    assert cached is not None and cached.closing_us == 90


async def test_a_close_that_is_heard_of_before_the_room_is_read_holds(pipeline: RedisPipeline) -> None:
    rooms = rooms_beside(pipeline, Workers())
    rooms.note_closing(1, 50)
    rooms.note_closing(1, 40)
    assert rooms.add(poll(1, 0)).state is PollState.CLOSED
    rooms.note_closing(3, 50)
    assert rooms.add(poll(2, 0)).state is PollState.OPEN


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
        here.poll, here._durable_close_us, here.closing_us = opened, 0, 0
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
