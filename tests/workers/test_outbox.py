"""The outbox when its login fails, and when its connection is half dead."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from models.runtime.settings import Settings
from tests.socket_tier.half_dead_proxy import HalfDeadProxy
from tests.socket_tier.waiting import eventually as eventually_so
from tests.workers.conftest import Amqp, eventually
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox, Unconfirmed


@pytest.mark.proves("FR-024")
def test_a_login_that_fails_is_told_and_another_account_used_the_next_time(settings: Settings) -> None:
    stranger = msgspec.structs.replace(settings.broker, url=settings.broker.url.replace("://", "://nobody-", 1))
    outbox = Outbox(msgspec.structs.replace(stranger, publish_timeout_s=1), WorkerMetrics(settings, "test"), "test")
    told: list[str] = []
    outbox.on_failed_login = lambda: told.append("failed")
    outbox.start()
    try:
        with pytest.raises(Unconfirmed):
            outbox.send_confirmed("amq.fanout", "", b"for nobody")
        assert told
        outbox.use(settings.broker)
        eventually(lambda: sent(outbox))
    finally:
        outbox.close()


def sent(outbox: Outbox) -> bool:
    try:
        outbox.send_confirmed("amq.fanout", "", b"for nobody")
    except Unconfirmed:
        return False
    return True


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[HalfDeadProxy]:
    proxy = HalfDeadProxy(settings.broker.url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.mark.proves("FR-035", "FR-037")
@pytest.mark.parametrize("break_link", [HalfDeadProxy.mute, HalfDeadProxy.deafen], ids=["mute", "deaf"])
async def test_what_is_said_over_a_half_dead_connection_is_said_again_long_before_the_broker_notices(
    settings: Settings, amqp: Amqp, proxy: HalfDeadProxy, break_link: Callable[[HalfDeadProxy, str], None]
) -> None:
    # Given an outbox that is connected, and a queue
    queue = amqp.channel.queue_declare("", exclusive=True).method.queue
    metrics = WorkerMetrics(settings, "test")
    outbox = Outbox(msgspec.structs.replace(settings.broker, url=proxy.url), metrics, "test")
    outbox.start()
    try:
        await asyncio.to_thread(outbox.send_confirmed, "", queue, b"before")
        # When the connection dies in one direction, of which neither side hears
        break_link(proxy, "test outbox")
        broken_at = time.monotonic()
        outbox.send("", queue, b"an answer")
        # Then what nobody waits for arrives even so, and what somebody waits for is confirmed
        await eventually_so(lambda: sent_to(outbox, queue), "a confirm", 20)
        took_s = time.monotonic() - broken_at
        print(f"half-dead outbox: in use again after {took_s:.1f} s")
        assert took_s < 15
        told: set[bytes] = set()
        while not told >= {b"an answer", b"confirmed"}:
            told.add(amqp.take(queue, 10)[1])
    finally:
        await asyncio.to_thread(outbox.close)


async def sent_to(outbox: Outbox, queue: str) -> bool:
    try:
        await asyncio.to_thread(outbox.send_confirmed, "", queue, b"confirmed")
    except Unconfirmed:
        return False
    return True
