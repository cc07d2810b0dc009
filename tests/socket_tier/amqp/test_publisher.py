"""The publisher against the real broker: a confirm means stored, everything else is an error that may be repeated."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pika
import pytest

from models.runtime.settings import BrokerSettings, load
from models.wire import names
from models.wire.commands import RecordAudit
from models.wire.envelope import wrap
from scripts.stack.run_folder import RunFolder
from scripts.stack.services import rabbitmq
from socket_tier.amqp.publisher import Publisher
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import BrokerUnavailable, NodeBusy
from tests.breakable import addresses, amqp_url, run_dir, second_stack
from tests.socket_tier.proxy import Proxy
from tests.socket_tier.waiting import eventually

__all__ = ["addresses", "amqp_url", "run_dir"]
pytestmark = second_stack  # a disk alarm stops everybody's messages

Declare = Callable[..., str]


@pytest.fixture
def channel(amqp_url: str) -> Iterator[Any]:
    """A channel of the test's own, which looks into the queues."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def declare(channel: Any) -> Iterator[Declare]:
    """Makes quorum queues with limits, and deletes them afterwards."""
    made: list[str] = []

    def new(**limits: Any) -> str:
        queue = f"test-{uuid4().hex[:12]}"
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", **limits})
        made.append(queue)
        return queue

    yield new
    for queue in made:
        channel.queue_delete(queue)


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(amqp_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
def settings(proxy: Proxy) -> BrokerSettings:
    return msgspec.structs.replace(load().broker, url=proxy.url, publish_timeout_s=4, reconnect_max_s=0.2)


@pytest.fixture
async def publisher(settings: BrokerSettings) -> AsyncIterator[Publisher]:
    publisher = Publisher(settings, NodeMetrics(load().metrics, "node", "test"))
    running = asyncio.create_task(publisher.run())
    async with asyncio.timeout(15):
        await publisher.connected.wait()
    yield publisher
    await publisher.close()
    await running


def bodies(channel: Any, queue: str) -> list[bytes]:
    """Takes everything out of a queue."""
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append(body)


async def test_a_confirmed_message_lies_in_the_queue(publisher: Publisher, declare: Declare, channel: Any) -> None:
    queue = declare()
    messages = [f"message {number}".encode() for number in range(100)]
    await asyncio.gather(*(publisher.publish("", queue, message) for message in messages))
    assert publisher.in_flight == 0
    await eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 100, "100 messages")
    assert bodies(channel, queue) == messages


async def test_a_message_that_no_queue_takes_is_an_error(publisher: Publisher) -> None:
    # RabbitMQ returns it and then confirms it: the confirm alone says nothing
    with pytest.raises(BrokerUnavailable) as error:
        await publisher.publish("", "no-such-queue", b"lost")
    assert not error.value.unclear


async def test_a_node_makes_what_it_misses_where_its_account_may(settings: BrokerSettings, channel: Any) -> None:
    # Given a broker that has lost the way to the queues
    channel.exchange_delete(names.COMMANDS_EXCHANGE)
    # When a node comes before any worker does
    publisher = Publisher(settings, NodeMetrics(load().metrics, "node", "test"))
    running = asyncio.create_task(publisher.run())
    async with asyncio.timeout(15):
        await publisher.connected.wait()
        # Then its commands find their queues
        queue, body = wrap(RecordAudit(()))
        await publisher.publish(names.COMMANDS_EXCHANGE, queue, body)
    await publisher.close()
    await running


@pytest.mark.proves("FR-041")
async def test_a_full_queue_is_an_error_and_its_neighbours_are_not(
    publisher: Publisher, declare: Declare, channel: Any
) -> None:
    # Given a queue that takes two messages, and one without a limit
    small, large = declare(**{"x-max-length": 2, "x-overflow": "reject-publish"}), declare()
    for number in range(20):
        try:
            await publisher.publish("", small, str(number).encode())
        except BrokerUnavailable as refused:
            assert not refused.unclear
            break
    else:
        pytest.fail("a queue for two messages took twenty")
    # Then the connection goes on
    await publisher.publish("", large, b"still here")
    assert bodies(channel, large) == [b"still here"]


@pytest.mark.proves("FR-035")
async def test_after_a_lost_connection_unclear_messages_are_sent_again_unchanged(
    publisher: Publisher, proxy: Proxy, declare: Declare, channel: Any
) -> None:
    # Given messages that the broker has, and whose confirms are on their way
    queue = declare()
    proxy.hold_answers()
    confirms = [publisher.publish("", queue, f"batch {number}".encode()) for number in range(3)]
    await eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 3, "stored once")
    # When the connection is lost with them
    proxy.cut()
    proxy.let_answers_through()
    # Then they are sent again, with the same bodies in the same order, and their callers hear of no failure
    async with asyncio.timeout(15):
        await asyncio.gather(*confirms)
    expected = [b"batch 0", b"batch 1", b"batch 2"]
    assert bodies(channel, queue) == expected * 2


@pytest.mark.proves("FR-037")
async def test_a_confirm_that_never_comes_is_unclear_and_the_next_publishes_are_refused_at_once(
    publisher: Publisher, settings: BrokerSettings, proxy: Proxy, declare: Declare
) -> None:
    queue = declare()
    proxy.hold_answers()
    confirmed = publisher.publish("", queue, b"unclear")
    await eventually(lambda: publisher.trouble() == "stalled", "the broker counts as stalled")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        publisher.publish("", queue, b"refused")
    assert time.monotonic() - started < settings.publish_timeout_s / 2
    with pytest.raises(BrokerUnavailable) as error:
        async with asyncio.timeout(20):
            await confirmed
    assert error.value.unclear and error.value.kind == "timeout"


async def test_while_disconnected_nothing_is_taken_and_afterwards_it_is(
    publisher: Publisher, proxy: Proxy, declare: Declare
) -> None:
    queue = declare()
    proxy.hold_answers()
    proxy.cut()
    await eventually(lambda: publisher.trouble() == "disconnected", "the loss is noticed")
    with pytest.raises(BrokerUnavailable):
        publisher.publish("", queue, b"refused")
    proxy.let_answers_through()
    await eventually(lambda: publisher.trouble() is None, "connected again", 30)
    async with asyncio.timeout(15):
        await publisher.publish("", queue, b"taken")


@pytest.mark.proves("FR-041")
async def test_the_window_of_unconfirmed_messages_is_bounded(
    publisher: Publisher, settings: BrokerSettings, proxy: Proxy, declare: Declare
) -> None:
    queue = declare()
    proxy.hold_answers()
    confirms = [publisher.publish("", queue, b"x") for _ in range(settings.window_messages)]
    with pytest.raises(NodeBusy):
        publisher.publish("", queue, b"one too many")
    proxy.let_answers_through()
    async with asyncio.timeout(15):
        await asyncio.gather(*confirms)
    await publisher.publish("", queue, b"now")


@pytest.mark.proves("FR-038", "FR-041")
async def test_a_blocked_broker_refuses_at_once_and_takes_again_after_the_alarm(
    publisher: Publisher, settings: BrokerSettings, declare: Declare, run_dir: Path
) -> None:
    queue = declare()
    folder = RunFolder(run_dir)
    # Given a broker with a disk alarm, which it tells a publisher at the next message
    assert rabbitmq.run_ctl(folder, ["set_disk_free_limit", "1000000000000000"]) == 0
    try:

        async def is_blocked() -> bool:
            if publisher.trouble() is None:
                publisher.publish("", queue, b"provokes the news").add_done_callback(lambda done: done.exception())
            return publisher.trouble() == "blocked"

        await eventually(is_blocked, "blocked", 30)
        # Then nothing is taken, and nobody waits for that
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            publisher.publish("", queue, b"refused")
        assert time.monotonic() - started < settings.publish_timeout_s / 2
    finally:
        assert rabbitmq.run_ctl(folder, ["set_disk_free_limit", "200MB"]) == 0
    # And after the alarm it goes on
    await eventually(lambda: publisher.trouble() is None, "unblocked", 30)
    async with asyncio.timeout(15):
        await publisher.publish("", queue, b"taken")


@pytest.mark.proves("FR-024")
async def test_a_login_that_fails_is_told_and_another_account_used_the_next_time(
    settings: BrokerSettings, publisher: Publisher, proxy: Proxy
) -> None:
    told: list[str] = []
    publisher.link.on_failed_login = lambda: told.append("failed")
    # Given an address that can't be understood, nothing is changed
    with pytest.raises(ValueError):
        publisher.link.use(msgspec.structs.replace(settings, url=f"{settings.url}?heartbeat=often"))
    # And with another account, the connection that is open stays
    publisher.link.use(msgspec.structs.replace(settings, url=settings.url.replace("://", "://nobody-", 1)))
    assert publisher.link.up and not told
    publisher.link.reset()
    await eventually(lambda: told, "a failed login")
    publisher.link.use(settings)
    await eventually(lambda: publisher.link.up, "a login")
