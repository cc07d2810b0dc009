"""Receives what workers and other nodes tell this node: answers to its commands, and notices to all nodes."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
from pika.channel import Channel

from models.runtime.settings import BrokerSettings
from models.wire import names
from models.wire.notices import Notice
from socket_tier.amqp.link import CONNECT_DEADLINE_S, Link
from socket_tier.amqp.publisher import Publisher
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import Refused

log = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(Notice)
_ECHO_EVERY_S = 0.25
# With the time to connect anew below 3 s. Closes take some milliseconds otherwise.
_DEAF_AFTER_S = 2.0
_ECHOES_LOST = 3  # so many that the broker has, and none of them here, are no slow broker
_NO_ECHO_S = 10.0  # the way of the echo is gone, if other things come meanwhile
_LOCKED = 405  # AMQP's reply code: another connection has the queue


class NoticeInbox:
    """One queue of this node's own, bound to the fan-out exchange.

    The queue is exclusive and dies with the connection: what was missed in between is read anew by whoever listens to
    ``on_gap``, called with each queue. Its name follows from ``address``: the node's id, or another as long as the
    broker holds the queue of a connection that is gone for this side alone.

    The node hears its own echo, which the publisher sends into the queue. ``on_hearing`` tells when it has heard none
    for ``_DEAF_AFTER_S`` and when it hears again: then all from before the echo has been heard as well, since a queue
    keeps its order. When nothing at all comes although the broker has the echoes, the connection is given up.
    ``on_notice`` must not block. Until the publisher or a worker has made the exchange, it is tried again and again.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        node_id: UUID,
        publisher: Publisher,
        metrics: NodeMetrics,
        *,
        on_notice: Callable[[Notice], None],
        on_hearing: Callable[[bool], None],
        on_gap: Callable[[], None],
    ) -> None:
        self.address = node_id
        self.hearing = False
        self.consuming = asyncio.Event()
        self.link = Link(settings, "notices", on_channel=self._opened, on_lost=self._lost)
        self._node_id = node_id
        self._publisher = publisher
        self._metrics = metrics
        self._on_notice = on_notice
        self._on_hearing = on_hearing
        self._on_gap = on_gap
        self._closing = False
        self._name_is_taken = False
        self._said = 0  # echoes; also the number of the last one
        self._said_when_deaf = 0
        self._unproven_s = 0.0  # since an echo was heard
        self._silent_s = 0.0  # since anything was
        self._stored = 0  # echoes that the broker has taken since one was heard

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(), name="notices-watch")
            await self.link.run()
            watching.cancel()

    async def close(self) -> None:
        self._closing = True
        await self.link.close()

    def _opened(self, channel: Channel) -> None:
        self.address = uuid4() if self._name_is_taken else self._node_id
        self._name_is_taken = False
        self._unproven_s = 0.0
        queue = names.reply_queue(self.address)
        channel.add_on_close_callback(self._channel_closed)
        # max-length: a node that doesn't read must not fill the broker; what is dropped is repaired by the next read.
        arguments = {"x-max-length": 50_000, "x-overflow": "drop-head"}
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=arguments)
        channel.queue_bind(queue, names.NODES_EXCHANGE)
        channel.exchange_declare(names.ECHO_EXCHANGE, "direct", durable=True)
        channel.queue_bind(queue, names.ECHO_EXCHANGE, queue)
        # Acked on delivery: the queue lives no longer than this connection, so nothing could be delivered again.
        channel.basic_consume(queue, self._received, auto_ack=True, callback=self._started)

    def _channel_closed(self, _channel: Channel, reason: Exception) -> None:
        if getattr(reason, "reply_code", None) == _LOCKED:
            self._name_is_taken = True

    def _started(self, _frame: Any) -> None:
        self.consuming.set()
        self._unproven_s, self._silent_s, self._stored = 0.0, 0.0, 0
        self._on_gap()
        self._set_hearing(True)
        log.info("notices_ready", extra={"queue": names.reply_queue(self.address)})

    def _lost(self) -> None:
        self.consuming.clear()
        self._set_hearing(False)

    def _received(self, _channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        self._silent_s = 0.0
        if method.exchange == names.ECHO_EXCHANGE:
            self._heard_echo(int.from_bytes(body))
            return
        try:
            notice = _decoder.decode(body)
        except msgspec.DecodeError as error:
            # Of a newer version, or damaged: this node can't use it, and nobody else waits for it.
            log.warning("notice_ignored", extra={"error": str(error)})
        else:
            try:
                self._on_notice(notice)
            except Exception:
                log.exception("notice_failed", extra={"notice": type(notice).__name__})

    def _heard_echo(self, number: int) -> None:
        # One from before the silence may have others behind it that were held up as long.
        if self.hearing or number > self._said_when_deaf:
            self._unproven_s, self._stored = 0.0, 0
            self._set_hearing(True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if self.consuming.is_set():
                self._say()
            await asyncio.sleep(_ECHO_EVERY_S)
            # An event loop that stood still has heard nothing, and that is not the connection's fault.
            passed_s = min(loop.time() - began, 2 * _ECHO_EVERY_S)
            self._unproven_s += passed_s
            self._silent_s += passed_s
            if self.consuming.is_set():
                if self._unproven_s >= _DEAF_AFTER_S:
                    self._deaf()
            elif self.link.up and self._unproven_s >= CONNECT_DEADLINE_S:
                self._give_up()  # half dead from the beginning

    def _say(self) -> None:
        """Into the queue from which this node hears, while the publisher takes anything: else it is nobody's fault."""
        if self._publisher.trouble() is not None:
            return
        self._said += 1
        queue = names.reply_queue(self.address)
        try:
            echo = self._publisher.publish(names.ECHO_EXCHANGE, queue, self._said.to_bytes(8), mandatory=False)
        except Refused:
            return  # the window is full: the votes in it prove as much of the publisher's connection
        echo.add_done_callback(self._echo_settled)

    def _echo_settled(self, echo: asyncio.Future[bool]) -> None:
        if echo.exception() is None:
            self._stored += 1

    def _deaf(self) -> None:
        self._set_hearing(False)
        if self._stored >= _ECHOES_LOST and (self._silent_s >= _DEAF_AFTER_S or self._unproven_s >= _NO_ECHO_S):
            self._give_up()

    def _give_up(self) -> None:
        self._unproven_s, self._stored = 0.0, 0
        self._metrics.count("notices.deaf")
        log.warning("notices_reset")
        self._name_is_taken = True  # the broker takes this connection for a good one
        self.link.reset()

    def _set_hearing(self, hearing: bool) -> None:
        if hearing != self.hearing and not self._closing:
            self.hearing = hearing
            self._said_when_deaf = self._said
            log.warning("notices_hearing" if hearing else "notices_deaf")
            self._on_hearing(hearing)
