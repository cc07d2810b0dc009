"""Publishes commands with pipelined confirms and a bounded window."""

import asyncio
import logging
import time
from dataclasses import dataclass

import pika
import pika.exceptions
from pika import spec
from pika.channel import Channel

from models.runtime.settings import BrokerSettings
from models.wire import names
from socket_tier.amqp.link import CONNECT_DEADLINE_S, Link
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import BrokerUnavailable, NodeBusy

log = logging.getLogger(__name__)

_NOT_FOUND = 404  # AMQP's reply code
_EXPIRY_CHECK_S = 0.25
# Confirms take a few milliseconds; a broker that has confirmed nothing for this long is hung, blocked or on fire.
_STALLED_S = 1.5


@dataclass(slots=True, eq=False)
class _Unconfirmed:
    exchange: str
    routing_key: str
    body: bytes
    deadline: float
    confirmed: asyncio.Future[bool]
    mandatory: bool
    sent_at: float = 0.0
    returned: bool = False
    resent: bool = False


class Publisher:
    """Sends messages to durable queues and tells when RabbitMQ has them on disk.

    Messages whose confirm is lost with the connection are sent again, unchanged, after the reconnect while their
    caller still waits: every command is idempotent. An unroutable message fails, unless it is not ``mandatory``.
    """

    def __init__(self, settings: BrokerSettings, metrics: NodeMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._channel: Channel | None = None
        self._opened_at = 0.0
        self._next_tag = 1
        self._something_missing = False
        self._unconfirmed: dict[int, _Unconfirmed] = {}  # delivery tag -> message, oldest first
        self._unclear: list[_Unconfirmed] = []  # waiting for the connection to come back
        self._properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        self.link = Link(settings, "publisher", on_channel=self._opened, on_lost=self._lost)
        self.connected = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Messages sent and not yet settled."""
        return len(self._unconfirmed) + len(self._unclear)

    @property
    def window_share(self) -> float:
        """How much of the window is in use, between 0 and 1."""
        return self.in_flight / self._settings.window_messages

    def trouble(self) -> str | None:
        """Why nothing new can be published now, or None."""
        if self._channel is None or not self._channel.is_open:
            return "disconnected"
        if self.link.blocked:
            return "blocked"
        oldest = next(iter(self._unconfirmed.values()), None)
        if oldest is not None and time.monotonic() - oldest.sent_at > _STALLED_S:
            return "stalled"
        return None

    def publish(self, exchange: str, routing_key: str, body: bytes, *, mandatory: bool = True) -> asyncio.Future[bool]:
        """Send one message. The future is done when RabbitMQ has confirmed it to disk; True if it was sent twice.

        It fails with BrokerUnavailable after ``publish_timeout_s`` seconds at the latest.

        :raises BrokerUnavailable: RabbitMQ is away, blocked or stalled; nothing was sent
        :raises NodeBusy: the window of unconfirmed messages is full; nothing was sent
        """
        if self.trouble() is not None:
            self._metrics.count("publish.refused")
            self._metrics.count("errors.broker.server")
            raise BrokerUnavailable()
        if self.in_flight >= self._settings.window_messages:
            self._metrics.count("publish.window_full")
            raise NodeBusy()
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        deadline = time.monotonic() + self._settings.publish_timeout_s
        self._send(_Unconfirmed(exchange, routing_key, body, deadline, confirmed, mandatory))
        return confirmed

    async def run(self) -> None:
        """Keep the connection, and end waits whose deadline has passed."""
        async with asyncio.TaskGroup() as tasks:
            expiry = tasks.create_task(self._expire(), name="publisher-expiry")
            await self.link.run()
            expiry.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything sent is settled, at most ``timeout_s`` seconds."""
        waiting = [m.confirmed for m in (*self._unconfirmed.values(), *self._unclear)]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    async def close(self) -> None:
        for message in (*self._unconfirmed.values(), *self._unclear):
            self._fail(message, unclear=True)
        self._unconfirmed.clear()
        self._unclear.clear()
        await self.link.close()

    def _send(self, message: _Unconfirmed) -> None:
        assert self._channel is not None
        tag = self._next_tag
        self._next_tag += 1
        message.sent_at = time.monotonic()
        self._unconfirmed[tag] = message
        properties = self._properties
        # Return carries the properties back; the delivery tag in them finds the message.
        properties.message_id = str(tag)
        try:
            self._channel.basic_publish(
                message.exchange, message.routing_key, message.body, properties, mandatory=message.mandatory
            )
        except pika.exceptions.AMQPError:
            # The connection ended a moment ago: ``_lost`` comes next and keeps the message for the one after it.
            pass

    def _opened(self, channel: Channel) -> None:
        """See that workers have made what this node writes to, or make it, as they do, where one was missing.

        To make it takes rights that let an account delete it, too: one that lacks them waits for a worker to come.
        """
        self._opened_at = time.monotonic()
        channel.add_on_close_callback(self._channel_closed)
        look = not self._something_missing
        channel.exchange_declare(names.ECHO_EXCHANGE, "direct", durable=True)  # the nodes' own
        channel.exchange_declare(names.COMMANDS_EXCHANGE, "direct", passive=look, durable=True)
        for queue in names.COMMAND_QUEUES:
            # Limits come by policy.
            channel.queue_declare(queue, passive=look, durable=True, arguments={"x-queue-type": "quorum"})
            if not look:
                channel.queue_bind(queue, names.COMMANDS_EXCHANGE, queue)
        # The last one's answer says that all of them are there.
        channel.exchange_declare(
            names.NODES_EXCHANGE, "fanout", passive=look, durable=True, callback=lambda _frame: self._usable(channel)
        )

    def _usable(self, channel: Channel) -> None:
        channel.confirm_delivery(self._settled)
        channel.add_on_return_callback(self._returned)
        self._channel = channel
        self._next_tag = 1
        unclear, self._unclear = self._unclear, []
        for message in unclear:
            message.resent = True
            self._send(message)
        log.info("publisher_ready", extra={"sent_again": len(unclear)})
        self.connected.set()

    def _channel_closed(self, _channel: Channel, reason: Exception) -> None:
        self._something_missing = getattr(reason, "reply_code", None) == _NOT_FOUND

    def _lost(self) -> None:
        self._channel = None
        self.connected.clear()
        self._unclear.extend(self._unconfirmed.values())
        self._unconfirmed.clear()
        self._metrics.count("publish.connection_lost")

    def _returned(
        self, _channel: Channel, method: spec.Basic.Return, properties: spec.BasicProperties, _b: bytes
    ) -> None:
        message = self._unconfirmed.get(int(properties.message_id or 0))
        if message is not None:
            message.returned = True
            log.error("message_unroutable", extra={"routing_key": method.routing_key})

    def _settled(self, frame: pika.frame.Method) -> None:
        method = frame.method
        tag = method.delivery_tag
        if method.multiple:
            tags = []
            for unconfirmed in self._unconfirmed:
                if unconfirmed > tag:
                    break
                tags.append(unconfirmed)
        else:
            tags = [tag]
        refused = isinstance(method, spec.Basic.Nack)
        for settled in tags:
            message = self._unconfirmed.pop(settled, None)
            if message is None:
                continue  # its caller has stopped waiting
            if refused or message.returned:
                self._metrics.count("publish.nacked" if refused else "publish.returned")
                self._metrics.count("errors.broker.server")
                # Sent twice, the first may be stored although the second is refused.
                self._fail(message, unclear=message.resent)
            elif not message.confirmed.done():
                self._metrics.count("publish.confirmed")
                self._metrics.timing_ms("publish.confirm_ms", (time.monotonic() - message.sent_at) * 1000)
                message.confirmed.set_result(message.resent)

    def _fail(self, message: _Unconfirmed, *, unclear: bool, timed_out: bool = False) -> None:
        if not message.confirmed.done():
            refusal = BrokerUnavailable(unclear=unclear)
            refusal.timed_out = timed_out
            message.confirmed.set_exception(refusal)
            message.confirmed.exception()  # read once here: a caller that went away is no error

    def _never_confirmed(self, message: _Unconfirmed) -> None:
        self._metrics.count("publish.unconfirmed")
        self._metrics.count("errors.broker.timeout")
        self._fail(message, unclear=True, timed_out=True)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_CHECK_S)
            now = time.monotonic()
            expired = False
            for tag, message in list(self._unconfirmed.items()):
                if message.deadline > now:
                    break
                del self._unconfirmed[tag]
                expired = True
                self._never_confirmed(message)
            if self.link.up and self._channel is None and now - self._opened_at > CONNECT_DEADLINE_S:
                log.warning("publisher_reset")  # half dead from the beginning
                self.link.reset()
            if expired and self._channel is not None and not self.link.blocked:
                # Confirms don't come although nothing blocks: this connection is of no use any more. While there is
                # none, votes are refused at once instead of waiting out the time one by one.
                log.warning("publisher_reset")
                self.link.reset()
            late = [message for message in self._unclear if message.deadline <= now]
            self._unclear = [message for message in self._unclear if message.deadline > now]
            for message in late:
                self._never_confirmed(message)
