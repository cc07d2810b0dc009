"""What a host worker looks at for the operators: RabbitMQ's queues, and whether tallies equal votes."""

import logging

import msgspec
import pytest
import redis

from models import vote_store
from models.recount import repair
from tests.workers import given
from tests.workers.conftest import eventually
from workers.database_gate import DatabaseGate
from workers.metrics import QUEUE_GAUGES, WorkerMetrics
from workers.queue_watch import QueueWatch
from workers.rooms import Rooms
from workers.tally_check import TallyCheck


@pytest.fixture
def metrics(settings):
    metrics = WorkerMetrics(settings, "test")
    yield metrics
    metrics.close()


def test_the_queues_levels_are_those_of_the_broker(settings, queues, amqp, database, start, metrics):
    # Given three commands that nobody takes, and one that was buried
    poll = given.open_poll(database)
    for _ in range(3):
        amqp.send(given.votes(poll, 1))
    amqp.channel.basic_publish("", f"{queues['votes']}.dead", b"{}")
    watch = QueueWatch(settings.broker, metrics, "test")

    def level(name):
        return metrics.take().gauges.get(name)

    # When somebody looks
    eventually(lambda: (watch._round(), level("queues.votes.messages") == level("queues.votes.dead") + 2)[1])
    # Then that is what he sees, and for how long it has been so
    assert level("queues.votes.messages") == 3
    assert level("queues.votes.consumers") == level("queues.votes.backlog_s") == 0
    watch._round()
    assert level("queues.votes.backlog_s") > 0
    assert level("queues.host.messages") == level("queues.host.dead") == level("queues.host.backlog_s") == 0
    # And when a worker comes, it is seen, and the backlog is over
    start("votes")
    eventually(lambda: (watch._round(), level("queues.votes.messages") == 0)[1])
    assert (level("queues.votes.consumers"), level("queues.votes.backlog_s")) == (1, 0)
    watch.close()


def test_levels_of_queues_are_unknown_while_the_broker_is_away(settings, queues, metrics):
    away = msgspec.structs.replace(settings.broker, url="amqp://guest:guest@127.0.0.1:9/%2F")
    for gauge in QUEUE_GAUGES:
        metrics.gauge(gauge, 5, everywhere=True)
    watch = QueueWatch(away, metrics, "test")
    watch._round()
    taken = metrics.take()
    assert taken.counts["queues.not_read"] == 1
    assert not taken.gauges
    watch.close()


@pytest.fixture
def check(database, cache, settings, metrics):
    """Makes a worker's check."""

    def check(worker: str) -> TallyCheck:
        return TallyCheck(DatabaseGate(database, metrics), Rooms(client, 60), metrics, worker)

    client = redis.Redis.from_url(settings.redis.url)
    yield check
    client.close()


def test_a_tally_that_is_wrong_is_found_until_it_is_repaired(database, check, metrics, caplog):
    # Given polls with votes, in one of which somebody has changed the tally by hand
    polls = [given.open_poll(database) for _ in range(3)]
    for poll in polls:
        vote_store.store_batches(database, [given.votes(poll, 4)], given.now_us())
    wrong = polls[1]
    with database.transaction():
        database.execute("UPDATE tallies SET votes = '{9,9,9}' WHERE poll_id = %s", (wrong.poll_id,))
    looking = check("worker-1")
    # When it is looked at, twice
    with caplog.at_level(logging.ERROR, "workers.tally_check"):
        looking.look()
        assert metrics._counts["tallies.wrong"] == 1
        assert metrics._counts["tallies.checked"] >= 3
        looking.look()
    # Then it is counted each time, and told once
    assert metrics._counts["tallies.wrong"] == 2
    assert [record.room_code for record in caplog.records if record.message == "tally_wrong"] == [wrong.room_code]
    # And no more when it is right again
    repair(database, wrong.poll_id, given.now_us())
    looking.look()
    assert metrics._counts["tallies.wrong"] == 2


def test_all_polls_get_their_turn_newest_first(database, check, metrics, monkeypatch):
    monkeypatch.setattr("workers.tally_check._POLLS", 2)
    polls = [given.open_poll(database).poll_id for _ in range(5)]
    looking = check("worker-1")
    seen = []
    for _ in range(3):
        looking.look()
        seen.append(looking._before[1])
    assert seen[:2] == [polls[3], polls[1]]
    assert seen[2] not in polls[1:]


def test_one_worker_of_all_looks(check, metrics, database):
    given.open_poll(database)
    first, second = check("worker-1"), check("worker-2")
    first.round()
    counted = metrics._counts["tallies.checked"]
    assert counted
    for _ in range(2):  # after the oldest poll comes one round with none
        second.round()
        assert metrics._counts["tallies.checked"] == counted
    for _ in range(2):
        first._rests_until = 0.0
        first.round()
    assert metrics._counts["tallies.checked"] > counted


def test_statements_are_timed_under_their_names(database, metrics):
    gate = DatabaseGate(database, metrics)
    poll = given.open_poll(database)
    gate.call(lambda db: vote_store.store_batches(db, [given.votes(poll, 2)], given.now_us()))
    gate.call(lambda db: given.stored(db, poll))
    taken = metrics.take().timings
    for name in ("begin", "lock_polls", "upsert_votes", "raise_tallies", "commit", "read_snapshots"):
        assert all(value > 0 for value in taken[f"database.statements.{name}"]), name
    assert len(taken["database.statements.upsert_votes"]) == 1
    assert taken["database.pool_wait_ms"]
