"""A worker that is told to stop, as in a deployment: what it is at is finished, what it only holds goes back."""

import threading

import dramatiq
import psycopg2
import pytest

from tests.workers import given
from tests.workers.conftest import eventually
from workers.process import WorkerProcess

_IN_MID_BATCH = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
BATCHES = 20
THREADS = 4


@pytest.mark.proves("FR-027", "SC-002")
def test_a_worker_that_stops_commits_and_acks_its_batch_and_gives_the_rest_back(
    settings, queues, cache, amqp, node, database, worker_database_url, monkeypatch
):
    # Given a worker in the middle of a transaction, for as long as it takes, with more batches in its memory
    monkeypatch.setattr("workers.process.LOCK_WAIT_S", 0)
    poll = given.open_poll(database)
    process = WorkerProcess(settings, "votes")
    worker = dramatiq.Worker(process.broker, worker_threads=THREADS, worker_timeout=100)
    worker.start()
    stopping = threading.Thread(target=worker.stop, name="stop")
    with psycopg2.connect(worker_database_url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM polls WHERE id = %s FOR UPDATE", (poll.poll_id,))
        for _ in range(BATCHES):
            amqp.send(given.votes(poll, 2, node.id))
        eventually(lambda: asked(worker_database_url, _IN_MID_BATCH))
        eventually(lambda: amqp.is_empty(queues["votes"]))
        # When it is told to stop, and gets on
        stopping.start()
        eventually(process.broker.stopping.is_set)
    holder.close()
    stopping.join()
    worker.broker.close()
    # Then what it was at is counted and acked, and everything else is in the queue
    counted = asked(worker_database_url, "SELECT count(*) FROM applied_batches WHERE node_id = %s", str(node.id))
    returned = eventually(lambda: amqp.channel.queue_declare(queues["votes"], passive=True).method.message_count)
    assert 0 < counted <= THREADS
    assert returned == BATCHES - counted
    assert sum(given.stored(database, poll).votes) == 2 * counted


def asked(url, sql, *parameters):
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone()[0]
    finally:
        connection.close()
