"""One poll's trouble is its own: somebody keeps its row locked, and everybody else's votes are stored meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg2
import pytest

from models.recount import recount
from models.wire.commands import VoteBatch
from models.wire.notices import BatchApplied
from tests.workers import given
from tests.workers.conftest import eventually

_HELD_S = 20.0
_AT_ONCE_S = 15.0  # 1 s is what is promised; a test machine may be busy, but then the lock is still held
_MANY = 300  # batches; more than a worker takes in advance, and than it has threads


@contextmanager
def locked(settings, *polls) -> Iterator[None]:
    with psycopg2.connect(settings.database.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM polls WHERE id = ANY(%s) FOR UPDATE", ([poll.poll_id for poll in polls],))
        yield
    holder.close()


def batch_of(node_id, *polls) -> VoteBatch:
    """One vote of each of these polls."""
    return VoteBatch(uuid4(), node_id, tuple(given.vote(poll) for poll in polls))


def counted(database, node) -> dict[int, int]:
    with database.transaction():
        query = "SELECT poll_id, batches FROM poll_batches WHERE node_id = %s"
        return dict(database.execute(query, (node.id,)).fetchall())


def votes_of(database, poll) -> int:
    return given.stored(database, poll).votes[0]


@pytest.fixture
def polls(database):
    return given.open_poll(database), given.open_poll(database)


def test_votes_of_other_polls_are_stored_at_once(start, amqp, queues, node, database, settings, polls):
    # Given a poll whose row is locked, and so many of its votes that no thread and no prefetch is left for others
    stuck, free = polls
    start("votes")
    with locked(settings, stuck):
        began = time.monotonic()
        for _ in range(_MANY):
            amqp.send(batch_of(node.id, stuck))
        longest_s, sent = 0.0, 0
        while time.monotonic() < began + _HELD_S:
            # When others vote, by themselves and in the same batch
            amqp.send(batch_of(node.id, free))
            amqp.send(batch_of(node.id, stuck, free))
            sent += 2
            at = time.monotonic()
            eventually(lambda: votes_of(database, free) == sent, _HELD_S)  # noqa: B023
            assert votes_of(database, stuck) == 0
            longest_s = max(longest_s, time.monotonic() - at)
            time.sleep(0.5)
        print(f"votes of another poll were stored within {longest_s:.2f} s, {sent} of them")
        # Then their votes are stored while the lock is held
        assert longest_s < _AT_ONCE_S
        assert votes_of(database, stuck) == 0
    # And those of the poll as soon as it is free, each batch counted once
    mixed = sent // 2
    eventually(lambda: votes_of(database, stuck) == _MANY + mixed, 60)
    eventually(lambda: amqp.is_empty(queues["votes"]) and amqp.is_empty(f"{queues['votes']}.DQ"), 30)
    assert votes_of(database, free) == sent
    assert counted(database, node) == {stuck.poll_id: _MANY + mixed, free.poll_id: sent}
    assert [poll.poll_id for poll in recount(database) if poll.poll_id in counted(database, node)] == []
    assert amqp.is_empty(f"{queues['votes']}.dead")


def test_a_batch_that_comes_twice_and_to_two_workers_counts_once(start, amqp, node, database, settings, polls):
    stuck, free = polls
    start("votes")
    mixed = batch_of(node.id, stuck, free)
    with locked(settings, stuck):
        # Given one half of a batch, stored
        amqp.send(mixed)
        eventually(lambda: votes_of(database, free) == 1)
        # When it is published once more, and another worker has come, which is served first
        start("votes")
        amqp.send(mixed)
        time.sleep(3)
        assert votes_of(database, stuck) == 0
    # Then the other half is stored, once
    answers = [node.hears(BatchApplied, 30) for _ in range(2)]
    assert {answer.batch_id for answer in answers} == {mixed.batch_id}
    assert (votes_of(database, stuck), votes_of(database, free)) == (1, 1)
    assert counted(database, node) == {stuck.poll_id: 1, free.poll_id: 1}


def test_a_batch_that_another_worker_is_about_to_apply_holds_up_no_other(start, amqp, node, database, settings, polls):
    # Given a worker that hangs in the middle of a transaction in which it has begun with a batch
    one, other = polls
    begun, free = batch_of(node.id, one), batch_of(node.id, other)
    with psycopg2.connect(settings.database.url) as holder, holder.cursor() as cursor:
        values = (str(begun.batch_id), str(node.id))
        cursor.execute("INSERT INTO applied_batches (batch_id, node_id) VALUES (%s, %s)", values)
        start("votes")
        # When that batch comes to another worker, with others
        amqp.send(begun)
        amqp.send(free)
        # Then the others are stored
        eventually(lambda: votes_of(database, other) == 1, _AT_ONCE_S * 2)
        holder.rollback()
    holder.close()
    eventually(lambda: votes_of(database, one) == 1, 30)
