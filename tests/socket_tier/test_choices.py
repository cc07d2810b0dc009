"""When participants' last choices are written: folded while somebody keeps voting, at once when somebody leaves. And
what is not believed: older ones, and refused ones."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from models.runtime.settings import load
from models.wire.choices import NOT_COUNTED
from models.wire.commands import CastVote, FetchChoices
from models.wire.notices import Choice, ChoicesFetched
from socket_tier import choices as module
from socket_tier.cache import Cache, StoredChoice
from socket_tier.choices import Choices
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import BrokerUnavailable, CacheUnavailable
from socket_tier.rooms import Member
from tests.socket_tier.waiting import eventually


class Written:
    """Takes what would go to Redis."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[str, int, int]]]] = []

    async def store_choices(self, room_code: str, choices: list[tuple[str, int, int]]) -> None:
        self.calls.append((room_code, choices))


class Answers:
    """Stands for the workers; ``answer`` None: they are away."""

    def __init__(self, answer: Choice | None) -> None:
        self.answer = answer

    async def request(self, command: FetchChoices, request_id: UUID) -> ChoicesFetched:
        if self.answer is None:
            raise BrokerUnavailable
        return ChoicesFetched(request_id, (self.answer,))


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


async def written(choices: Choices, cache: Written) -> list[tuple[str, int, int]]:
    """What goes to Redis by the next write."""
    cache.calls.clear()
    assert await choices.write()
    return [choice for _, some in cache.calls for choice in some]


async def test_a_refused_vote_is_not_written_whichever_of_ack_and_refusal_comes_first() -> None:
    cache = Written()
    choices = Choices(cast(Any, cache), cast(Any, SimpleNamespace()), uuid4())
    ada = Member(uuid4(), "Ada")
    choices.note("ABC234", ada, vote(ada, 1, 5))
    choices.forget("ABC234", ada.participant_id, 5)
    assert await written(choices, cache) == [(ada.key, NOT_COUNTED, 5)]
    choices.forget("ABC234", ada.participant_id, 6)
    choices.note("ABC234", ada, vote(ada, 1, 6))
    assert await written(choices, cache) == [(ada.key, NOT_COUNTED, 6)]
    # But a later one is, whatever is said of an earlier one
    choices.note("ABC234", ada, vote(ada, 2, 8))
    choices.forget("ABC234", ada.participant_id, 7)
    assert await written(choices, cache) == [(ada.key, 2, 8)]


async def test_of_two_refused_votes_the_earlier_one_is_not_left_for_the_choice() -> None:
    cache = Written()
    choices = Choices(cast(Any, cache), cast(Any, SimpleNamespace()), uuid4())
    ada = Member(uuid4(), "Ada")
    # Given two votes that Redis had one after the other
    choices.note("ABC234", ada, vote(ada, 1, 5))
    # When both are refused before the next write
    for seq in (5, 6):
        choices.forget("ABC234", ada.participant_id, seq)
    # Then all up to the later one is taken away
    assert await written(choices, cache) == [(ada.key, NOT_COUNTED, 6)]


async def test_what_redis_did_not_take_never_replaces_what_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Written()
    choices = Choices(cast(Any, cache), cast(Any, SimpleNamespace()), uuid4())
    ada, bo = Member(uuid4(), "Ada"), Member(uuid4(), "Bo")

    async def away(room_code: str, some: list[tuple[str, int, int]]) -> None:
        choices.note("ABC234", ada, vote(ada, 2, 6))
        choices.note("ABC234", bo, vote(bo, 0, 3))
        raise CacheUnavailable

    choices.note("ABC234", ada, vote(ada, 1, 5))
    choices.forget("ABC234", bo.participant_id, 4)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "store_choices", away)
        assert not await choices.write()
    assert sorted(await written(choices, cache)) == sorted([(ada.key, 2, 6), (bo.key, NOT_COUNTED, 4)])


def test_a_member_holds_the_latest_choice_that_was_not_refused() -> None:
    ada = Member(uuid4(), "Ada")
    assert ada.chose(vote(ada, 1, 5))
    # An ack that was overtaken by a later one's, or by the refusal of a later one, is not the choice
    assert not ada.chose(vote(ada, 0, 4))
    ada.refused(6, None)
    assert not ada.chose(vote(ada, 2, 6))
    assert ada.choice is None
    # A refusal of an earlier vote changes nothing
    assert ada.chose(vote(ada, 2, 8))
    ada.refused(7, None)
    assert ada.choice == 2
    # Where votes stand the refusal tells which one does
    ada.refused(9, 2)
    assert (ada.choice, ada.choice_seq) == (2, 9)


def test_a_member_learns_what_was_chosen_elsewhere_and_keeps_what_is_newer() -> None:
    ada = Member(uuid4(), "Ada")
    ada.learn(0, 3)
    assert (ada.choice, ada.last_seq) == (0, 3)
    assert ada.chose(vote(ada, 1, 5))
    ada.learn(0, 4)  # the database has not stored the last vote yet
    assert ada.choice == 1
    ada.learn(2, 7)
    assert (ada.choice, ada.last_seq) == (2, 7)
    ada.learn(0, 7)  # that one was refused, by way of another node
    assert ada.choice == 0


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    settings = load()
    metrics = NodeMetrics(settings.metrics, "node", "test")
    pipeline = RedisPipeline(msgspec.structs.replace(settings.redis, url=redis_url), metrics)
    yield Cache(pipeline, 60)
    await pipeline.close()


async def test_what_is_not_written_yet_counts_for_a_resume(cache: Cache) -> None:
    database = Answers(Choice(uuid4(), 0, 4))
    choices = Choices(cache, cast(Any, database), uuid4())
    ada, room = Member(uuid4(), "Ada"), cast(Any, SimpleNamespace(code=f"T{uuid4().hex[:5]}", poll=SimpleNamespace()))
    room.poll.poll_id = 7
    # Given that Redis has a choice
    await cache.store_choices(room.code, [(ada.key, 1, 5)])
    # When a later one is acked, and then both are refused
    choices.note(room.code, ada, vote(ada, 2, 6))
    assert await choices.of(room, ada) == StoredChoice(2, 6)
    choices.forget(room.code, ada.participant_id, 6)
    # Then what counts is what the database says, and the next vote goes behind the refused ones
    assert await choices.of(room, ada) == StoredChoice(0, 6)
    assert await choices.write()
    assert await choices.of(room, ada) == StoredChoice(0, 6)
    # And with the database away nothing is shown rather than what was refused
    database.answer = None
    assert await choices.of(room, ada) == StoredChoice(None, 6)


async def test_in_redis_nothing_up_to_a_refused_vote_is_believed_and_all_after_it(cache: Cache) -> None:
    ada, room = Member(uuid4(), "Ada"), f"T{uuid4().hex[:5]}"
    steps = [
        ((-1, 0), (StoredChoice(None, 0), 0)),
        ((1, 5), (StoredChoice(1, 5), 0)),
        ((0, 4), (StoredChoice(1, 5), 0)),  # older
        ((NOT_COUNTED, 4), (StoredChoice(1, 5), 0)),  # refused, but not what is known
        ((NOT_COUNTED, 6), (None, 6)),  # refused before it was written
        ((1, 6), (None, 6)),  # its node writes it now
        ((1, 5), (None, 6)),  # what the database knows may not be all
        ((2, 7), (StoredChoice(2, 7), 6)),
        ((NOT_COUNTED, 6), (StoredChoice(2, 7), 6)),
        ((NOT_COUNTED, 7), (None, 7)),
    ]
    for (option, seq), known in steps:
        await cache.store_choices(room, [(ada.key, option, seq)])
        assert await cache.choice(room, ada.participant_id) == known
