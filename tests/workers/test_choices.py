"""The writer of committed choices by itself: bounded, and never at the price of an older choice left in Redis."""

from typing import Any

import pytest
import redis

from models.database import Database
from models.runtime.settings import Settings
from models.wire import names
from models.wire.choices import refused_field
from tests.workers import given
from tests.workers.conftest import eventually
from workers import choices as module
from workers.choices import ChoiceWriter
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.rooms import Rooms


@pytest.fixture
def writer(settings: Settings, database: Database, cache: redis.Redis) -> ChoiceWriter:
    """Not started: what it was told lies there until a test starts it."""
    metrics = WorkerMetrics(settings, "test")
    return ChoiceWriter(DatabaseGate(database, metrics), Rooms(cache, 60), metrics)


def known(cache: redis.Redis, poll: Any) -> Any:
    return cache.hgetall(names.choices_key(poll.room_code))


def test_of_one_participants_choices_the_highest_seq_stands(
    writer: ChoiceWriter, cache: redis.Redis, database: Database
) -> None:
    poll = given.open_poll(database)
    first = given.vote(poll, 1)
    later = given.vote(poll, 2, first.participant_id)
    for votes in ([later], [first]):
        writer.note(votes)
    writer.start()
    eventually(lambda: known(cache, poll) == {later.participant_id.hex: f"2:{later.seq}"})
    writer.close()


def test_a_refused_vote_takes_away_its_own_choice_and_none_that_came_later(
    writer: ChoiceWriter, cache: redis.Redis, database: Database
) -> None:
    poll = given.open_poll(database)
    refused, kept = given.vote(poll, 1), given.vote(poll, 2)
    later = given.vote(poll, 0, kept.participant_id)
    writer.note([later])
    writer.note([refused, kept], count=False)
    writer.start()
    left = {later.participant_id.hex: f"0:{later.seq}", refused_field(refused.participant_id.hex): str(refused.seq)}
    eventually(lambda: known(cache, poll) == left)
    writer.close()


def test_of_polls_with_too_many_choices_redis_is_made_to_forget_them(
    writer: ChoiceWriter, cache: redis.Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CAPACITY_CHOICES", 1)
    poll, other = given.open_poll(database), given.open_poll(database)
    one, two, three = (given.vote(poll) for _ in range(3))
    for room in (poll, other):
        cache.hset(names.choices_key(room.room_code), three.participant_id.hex, "-1:0")
    writer.note([one, two])
    writer.note([three])
    writer.start()
    # What was held is written; of whoever else voted nothing older is left
    written = {vote.participant_id.hex: f"0:{vote.seq}" for vote in (one, two)}
    eventually(lambda: known(cache, poll) == written)
    assert known(cache, other)
    writer.close()
