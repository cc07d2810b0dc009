"""A connection to RabbitMQ that dies between the question whether it lives and the publish."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pika.exceptions
import pytest
from pika import frame, spec

from models.runtime.settings import load_or_exit
from socket_tier.amqp.publisher import Publisher
from socket_tier.metrics import NodeMetrics


class FakeChannel:
    """Open until ``die`` is called."""

    def __init__(self, *, dying: bool = False) -> None:
        self.is_open = True
        self.dying = dying
        self.published: list[bytes] = []

    def basic_publish(self, _exchange: str, _key: str, body: bytes, *_: Any, **__: Any) -> None:
        if self.dying:
            raise pika.exceptions.ChannelWrongStateError("Channel is closed.")
        self.published.append(body)

    def exchange_declare(self, *_: Any, callback: Any = None, **__: Any) -> None:
        if callback is not None:
            callback(None)

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: SimpleNamespace()


@pytest.mark.proves("FR-035", "SC-002")
async def test_a_message_published_to_a_dying_connection_is_sent_over_the_next() -> None:
    settings = load_or_exit()
    publisher = Publisher(settings.broker, NodeMetrics(settings.metrics, "node", "node-1"))
    # Given a channel that dies in the very moment of the publish
    publisher._opened(FakeChannel(dying=True))
    confirmed = publisher.publish("", "votes", b"a batch")
    # When the connection is lost and another one comes
    publisher._lost()
    channel = FakeChannel()
    publisher._opened(channel)
    # Then the message goes out, and its caller gets the confirm
    assert channel.published == [b"a batch"]
    publisher._settled(frame.Method(1, spec.Basic.Ack(1)))
    assert confirmed.done() and confirmed.exception() is None


async def test_a_closed_channel_takes_nothing_new() -> None:
    settings = load_or_exit()
    publisher = Publisher(settings.broker, NodeMetrics(settings.metrics, "node", "node-1"))
    channel = FakeChannel()
    publisher._opened(channel)
    channel.is_open = False
    assert publisher.trouble() == "disconnected"
