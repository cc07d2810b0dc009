"""Receives what workers and other nodes tell this node: answers to its commands, and notices to all nodes."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
from pika.channel import Channel

from models.runtime.settings import BrokerSettings
from models.wire import names
from models.wire.notices import Notice
from socket_tier.amqp.link import Link

log = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(Notice)


class NoticeInbox:
    """One queue of this node's own, bound to the fan-out exchange.

    The queue is exclusive and dies with the connection: what was missed in between is read anew by whoever listens to
    ``on_gap``, called after each reconnect. ``on_notice`` must not block. Until the publisher or a worker has made the
    exchange, it is tried again and again.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        node_id: UUID,
        *,
        on_notice: Callable[[Notice], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._queue = names.reply_queue(node_id)
        self._on_notice = on_notice
        self._on_gap = on_gap
        self._had_channel = False
        self.consuming = asyncio.Event()
        self.link = Link(settings, "notices", on_channel=self._opened, on_lost=self.consuming.clear)

    async def run(self) -> None:
        await self.link.run()

    async def close(self) -> None:
        await self.link.close()

    def _opened(self, channel: Channel) -> None:
        # max-length: a node that doesn't read must not fill the broker; what is dropped is repaired by the next read.
        arguments = {"x-max-length": 50_000, "x-overflow": "drop-head"}
        channel.queue_declare(self._queue, exclusive=True, auto_delete=True, arguments=arguments)
        channel.queue_bind(self._queue, names.NODES_EXCHANGE)
        # Acked on delivery: the queue lives no longer than this connection, so nothing could be delivered again.
        channel.basic_consume(self._queue, self._received, auto_ack=True, callback=self._started)

    def _started(self, _frame: Any) -> None:
        self.consuming.set()
        if self._had_channel:
            self._on_gap()
        self._had_channel = True
        log.info("notices_ready")

    def _received(self, _channel: Channel, _method: Any, _properties: Any, body: bytes) -> None:
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
