"""Final through the real workers: only when nothing that was acked can still be on its way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from models.wire.commands import ClaimHost, NodeHeartbeat, PollFlushed
from models.wire.notices import NodeKnown, StateChanged
from tests.workers import given
from tests.workers.conftest import Amqp, eventually
from tests.workers.test_results import shown

# A silent node counts as dead after 6 s, and may have published until 2 s after that; then some looks.
_DEAD_AND_GONE_S = 14.0
_SETTLED_WITHIN_S = 45.0


@pytest.fixture
def holder(amqp_url: str) -> Iterator[Callable[[str], Amqp]]:
    """Stands for a worker that has taken commands of a queue and hangs."""
    connections = []

    def take(queue: str) -> Amqp:
        hung = Amqp(amqp_url)
        connections.append(hung.connection)
        hung.channel.basic_qos(prefetch_count=1)
        hung.channel.basic_consume(queue, lambda *_: None)
        hung.connection.process_data_events(0.2)
        return hung

    yield take
    for connection in connections:
        if connection.is_open:
            connection.close()


@contextmanager
def nothing_becomes_final(database, poll, hung: Amqp) -> Iterator[None]:
    """Looks as long as any time-out may last; the hung worker's connection lives meanwhile."""
    yield
    deadline = time.monotonic() + _DEAD_AND_GONE_S
    while time.monotonic() < deadline:
        assert not given.stored(database, poll).final
        hung.connection.process_data_events(0.2)


def becomes_final(database, poll):
    eventually(lambda: given.stored(database, poll).final, _SETTLED_WITHIN_S)
    with database.transaction():
        told = database.execute(
            "SELECT count(*) FROM audit_log WHERE room_code = %s AND event IN ('poll_final', 'late_straggler_counted')",
            (poll.room_code,),
        )
        assert told.fetchone() == (1,)
    return given.stored(database, poll)


def test_a_vote_of_a_dead_node_that_a_hung_worker_holds_is_waited_for(start, amqp, queues, node, database, holder):
    # Given a node that has published votes and is heard of no more, and a worker that has taken them and hangs
    poll = given.open_poll(database)
    hung = holder(queues["votes"])
    amqp.send(given.votes(poll, 3, node.id))
    assert eventually(lambda: amqp.is_empty(queues["votes"]))
    start("host")
    start("votes")
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
    with nothing_becomes_final(database, poll, hung):
        amqp.send(given.change_command(poll, "closed", node.id))
    # When RabbitMQ takes them from it
    hung.connection.close()
    # Then they are counted, and then the totals are final, once
    assert becomes_final(database, poll).votes == (3, 0, 0)


def test_a_node_whose_first_heartbeat_waits_is_waited_for(start, amqp, queues, node, database, holder):
    # Given a node that took votes while the database was away, and was killed: nothing knows of it but a command that
    # a worker has taken and does not get done with
    poll = given.open_poll(database)
    batch = given.votes(poll, 2, node.id)
    hung = holder(queues["host"])
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us(), first=True))
    assert eventually(lambda: amqp.is_empty(queues["host"]))
    start("host")
    with nothing_becomes_final(database, poll, hung):
        amqp.send(given.change_command(poll, "closed", node.id))
    # When that command is applied, then the node is waited for, and its votes count
    hung.connection.close()
    node.hears(NodeKnown)
    amqp.send(batch)
    start("votes")
    assert becomes_final(database, poll).votes == (2, 0, 0)


def test_a_batch_that_was_dead_lettered_is_waited_for_no_longer(start, amqp, queues, node, database):
    # Given a batch of a newer version that no worker here can read
    poll = given.open_poll(database)
    start("host")
    start("votes")
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
    amqp.send(msgspec.structs.replace(given.votes(poll, 1, node.id), format=99))
    headers, _body = amqp.take(f"{queues['votes']}.dead")
    assert headers["reason"] == "newer_format"
    # When its node, which lives, has reported it
    amqp.send(given.change_command(poll, "closed", node.id))
    closed = node.hears(StateChanged).poll
    amqp.send(PollFlushed(poll.poll_id, closed.state_changed_at_us, node.id, 1))

    def final():
        amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
        time.sleep(0.2)
        return given.stored(database, poll).final

    eventually(final, _SETTLED_WITHIN_S)
    with database.transaction():
        query = "SELECT details FROM audit_log WHERE event = 'final_without_all_batches' AND room_code = %s"
        assert database.execute(query, (poll.room_code,)).fetchall() == [({f"batches missing of {node.id}": "1"},)]


def test_who_hosts_a_poll_changes_nothing_about_its_final_version(start, amqp, node, database, cache):
    # Given final totals
    poll = given.open_poll(database)
    host = start("host")
    start("votes")  # nodes of other tests have died a moment ago
    host.rooms.store([poll], create=True)
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
    amqp.send(given.change_command(poll, "closed", node.id))
    closed = node.hears(StateChanged).poll
    amqp.send(PollFlushed(poll.poll_id, closed.state_changed_at_us, node.id, 0))
    eventually(lambda: shown(cache, poll).final, _SETTLED_WITHIN_S)
    final = shown(cache, poll)
    # When somebody claims the poll
    amqp.send(ClaimHost(poll.poll_id, node.id, given.now_us()))
    # Then that is shown, under the same version, and an older snapshot of that version does not undo it
    eventually(lambda: shown(cache, poll).host_browsers == (node.id,))
    assert shown(cache, poll).version == final.version
    host.rooms.store([final])
    assert shown(cache, poll).host_browsers == (node.id,)


@pytest.mark.usefixtures("queues")
def test_the_first_heartbeat_of_a_node_waits_for_the_database_and_is_answered(start, amqp, node, no_database):
    start("host")
    no_database(True)
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us(), first=True))
    with pytest.raises(pytest.fail.Exception):
        node.hears(NodeKnown, 2)
    no_database(False)
    assert node.hears(NodeKnown).request_id == node.id
