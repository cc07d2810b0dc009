"""Every command ends in exactly one way: acked, given back, or dead-lettered with its reason."""

import time

import dramatiq
import msgspec
import pytest
from dramatiq.errors import ConnectionClosed

from models.wire.commands import RecordAudit, VoteBatch
from models.wire.envelope import wrap
from scripts.stack import ports
from tests.workers import given
from tests.workers.conftest import eventually
from workers.actors import AUDIT_LAST, HOST_FIRST, Lane, declare
from workers.broker import CommandBroker, CommandMessage
from workers.dead_letters import DeadLetters
from workers.encoder import CommandEncoder
from workers.errors import GiveBack, StepAside
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox, Unconfirmed


@pytest.fixture
def handled(start):
    """Starts a worker whose vote actor is the given function; returns the worker process."""

    def handled(handle, **more):
        def prepare(process):
            del process.broker.actors["store_votes"]
            declare(process.broker, VoteBatch, handle, priority=HOST_FIRST)
            for command, other in more.items():
                declare(process.broker, {"audit": RecordAudit}[command], other, priority=AUDIT_LAST)

        return start("votes", prepare)

    return handled


def is_settled(amqp, queue):
    """Nothing waits and nothing is dead."""
    return amqp.is_empty(queue) and amqp.is_empty(f"{queue}.dead")


def no_batch():
    return VoteBatch(given.uuid4(), given.NOBODY, ())


def test_a_message_given_back_returns_to_its_queue_unharmed(handled, amqp, queues):
    # Given an actor that can't decide at first
    seen = []

    def handle(batch):
        seen.append(batch)
        if len(seen) < 3:
            raise GiveBack("not now")

    handled(handle)
    # When a command arrives
    sent = no_batch()
    amqp.send(sent)
    # Then it comes again until it is decided, the same each time, and is neither retried elsewhere nor dead
    eventually(lambda: len(seen) == 3)
    assert seen == [sent] * 3
    assert is_settled(amqp, queues["votes"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff not JSON", "undecodable"),
        (b'{"queue_name": "votes"}', "undecodable"),
        (b'{"queue_name":"QUEUE","actor_name":"store_votes","args":[{"votes":1}],"kwargs":{},"options":{},'
         b'"message_id":"1","message_timestamp":1}', "undecodable"),
        (b'{"queue_name":"QUEUE","actor_name":"no_such","args":[],"kwargs":{},"options":{},'
         b'"message_id":"1","message_timestamp":1}', "failed"),
        (b'{"queue_name":"QUEUE","actor_name":"store_votes","args":[{"batch_id":"0198c2a0-0000-7000-8000-000000000001",'
         b'"node_id":"0198c2a0-0000-7000-8000-000000000002","votes":[],"format":2}],"kwargs":{},"options":{},'
         b'"message_id":"1","message_timestamp":1}', "newer_format"),
        (b'{"queue_name":"elsewhere","actor_name":"store_votes","args":[],"kwargs":{},"options":{},'
         b'"message_id":"1","message_timestamp":1}', "wrong_queue"),
    ],
    ids=["not JSON", "no message", "no command", "unknown actor", "newer format", "wrong queue"],
)  # fmt: skip
@pytest.mark.proves("FR-008")
def test_a_command_that_cannot_be_read_is_dead_lettered_with_its_reason(start, amqp, queues, body, reason):
    process = start("votes")
    queue = queues["votes"]
    body = body.replace(b"QUEUE", queue.encode())
    amqp.channel.basic_publish("", queue, body)
    headers, dead = amqp.take(f"{queue}.dead")
    assert dead == body
    assert (headers["reason"], headers["queue"]) == (reason, queue)
    assert headers["error"]
    # And the worker goes on
    amqp.send(no_batch())
    eventually(lambda: process.metrics._counts["messages.done"] or process.metrics._counts["votes.batches"])
    assert is_settled(amqp, queue)


def test_a_dead_letter_that_is_not_confirmed_stays_in_its_queue(start, amqp, queues, monkeypatch):
    # Given a broker that confirms no dead letter at first
    tried = []
    bury = DeadLetters.bury

    def flaky(self, *arguments):
        tried.append(arguments)
        if len(tried) == 1:
            raise Unconfirmed("no confirm")
        bury(self, *arguments)

    monkeypatch.setattr(DeadLetters, "bury", flaky)
    start("votes")
    amqp.channel.basic_publish("", queues["votes"], b"junk")
    # Then it comes again and is buried after all
    assert amqp.take(f"{queues['votes']}.dead")[1] == b"junk"
    assert len(tried) == 2


@pytest.mark.proves("FR-035")
def test_a_command_that_fails_unexpectedly_is_tried_again_later(handled, amqp, queues):
    seen = []

    def handle(batch):
        seen.append(batch)
        if len(seen) == 1:
            raise RuntimeError("a bug")

    handled(handle)
    amqp.send(no_batch())
    eventually(lambda: len(seen) == 2)
    assert is_settled(amqp, queues["votes"])


def test_a_retry_that_cannot_be_queued_loses_nothing(handled, amqp, queues):
    # Given an actor that fails once, and a RabbitMQ that takes no retry
    seen = []

    def handle(batch):
        seen.append(batch)
        if len(seen) == 1:
            raise RuntimeError("a bug")

    def refuse(message, *, delay=None):
        raise ConnectionClosed(Exception("gone"))

    handled(handle).broker.enqueue = refuse
    # When a command arrives
    sent = no_batch()
    amqp.send(sent)
    # Then the original goes back to its queue and is decided
    eventually(lambda: len(seen) == 2)
    assert seen == [sent, sent]
    assert is_settled(amqp, queues["votes"])


def test_an_ack_never_hits_another_message_after_a_reconnect(handled, amqp, queues):
    """Delivery tags start at 1 again on each channel."""
    process = handled(lambda batch: None)
    queue = queues["votes"]
    # Given a message delivered on a channel that was lost, and a newer channel whose message has the same tag
    lost = process.broker.consume(f"{queue}.DQ")
    body = dramatiq.Message(f"{queue}.DQ", "store_votes", (), {}, {}).encode()
    old = CommandMessage(lost, 1, False, body)
    newer = process.broker.consume(f"{queue}.DQ")
    newer.known_tags.add(1)
    # When the old one is settled
    newer.ack(old)
    # Then the newer one stays unacked
    assert newer.known_tags == {1}
    lost.close()
    newer.close()


def test_a_message_that_steps_aside_lets_others_pass(handled, amqp):
    order = []

    def slow(command):
        if "votes" not in order:
            order.append("stepped aside")
            raise StepAside("busy", 0.05)
        order.append("audit")

    # Given a message that steps aside until another one was handled, and has done so before that one comes
    handled(lambda batch: order.append("votes"), audit=slow)
    amqp.send(RecordAudit(()))
    eventually(lambda: order)
    # When it comes, then it gets past, and the first one has its turn after it
    amqp.send(no_batch())
    eventually(lambda: order[-1] == "audit")
    assert order.index("votes") == len(order) - 2


def test_the_encoder_reads_500_votes_in_far_less_than_200_microseconds():
    vote = given.CastVote(1, given.uuid4(), 1, 1_700_000_000_000_000, 1_700_000_000_000_000)
    _, body = wrap(VoteBatch(given.uuid4(), given.uuid4(), (vote,) * 500))
    encoder, decoder = CommandEncoder(), msgspec.json.Decoder(VoteBatch)

    def read():
        started = time.perf_counter()
        batch = decoder.decode(encoder.decode(body)["args"][0])
        assert len(batch.votes) == 500
        return time.perf_counter() - started

    # The best of many, since the machine is shared.
    assert min(read() for _ in range(50)) < 400e-6


def test_members_and_reports_leave_threads_for_hosts():
    lane = Lane(1)
    with lane, pytest.raises(StepAside), lane:
        pytest.fail("two threads in a lane for one")
    with lane:
        pass


def test_the_vote_worker_that_was_started_last_goes_first(start):
    earlier, later = (start("votes").broker.consumer_arguments["x-priority"] for _ in range(2))
    assert earlier < later
    assert start("host").broker.consumer_arguments is None


def test_of_two_vote_workers_one_takes_all_it_has_room_for(settings, amqp, queues):
    # Given two that have room for three messages each, and different priorities
    metrics = WorkerMetrics(settings, "votes")
    outbox = Outbox(settings.broker, metrics, "outbox under test")
    takers = [
        CommandBroker(settings, [], DeadLetters(outbox, metrics), metrics, 3, priority).consume(
            queues["votes"], timeout=50
        )
        for priority in (7, 8)
    ]
    assert [next(taker) for taker in takers] == [None, None]  # both take part from the first look on
    # When more come than one has room for
    for _ in range(5):
        amqp.send(no_batch())
    taken = [[], []]

    def all_taken():
        for taker, mine in zip(takers, taken, strict=True):
            if (message := next(taker)) is not None:
                mine.append(message)
        return sum(map(len, taken)) == 5

    eventually(all_taken)
    # Then the other has what was left
    assert [len(mine) for mine in taken] == [2, 3]
    for taker, mine in zip(takers, taken, strict=True):
        for message in mine:
            taker.ack(message)
        taker.close()


def test_a_consumer_without_a_connection_is_asked_nothing(settings, queues):
    """It would have no answer, and whoever asks would fail."""
    metrics = WorkerMetrics(settings, "votes")
    nowhere = msgspec.structs.replace(settings.broker, url=f"amqp://127.0.0.1:{ports.any_free()}/%2F")
    away = msgspec.structs.replace(settings, broker=nowhere)
    dead_letters = DeadLetters(Outbox(nowhere, metrics, "outbox under test"), metrics)
    broker = CommandBroker(away, [], dead_letters, metrics, 3)
    with pytest.raises(ConnectionClosed):
        broker.consume(queues["votes"], timeout=50)
    assert broker.holding(queues["votes"]).consumers == {}
