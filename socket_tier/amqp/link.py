"""One AMQP connection that comes back by itself."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

from models.runtime import tls
from models.runtime.settings import BrokerSettings

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 5
_LOOK_EVERY_S = 2.0


class Link:
    """Keeps one connection with one channel open; tells its owner when the channel comes and goes.

    ``on_channel(channel)`` is called with each new channel, ``on_lost()`` once after it is gone. Tries again after a
    jittered pause of at most ``reconnect_max_s`` until ``close`` is called.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        *,
        on_channel: Callable[[Channel], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.name = name
        self.blocked = False
        self._settings = settings
        self._on_channel = on_channel
        self._on_lost = on_lost
        self._connection: AsyncioConnection | None = None
        self._gone = asyncio.Event()
        self._closing = False
        self._up = False
        self.on_failed_login: Callable[[], None] = lambda: None
        self.use(settings)

    def use(self, settings: BrokerSettings) -> None:
        """Connect there, or as another account, from the next time on; a connection that is open stays.

        :raises ValueError: an address can't be understood; nothing is changed
        """
        for url in settings.urls:
            pika.URLParameters(url)
        # The brokers of a cluster, the next one to try first; their order spreads the nodes over them.
        self._urls = deque(random.sample(settings.urls, len(settings.urls)))

    @property
    def up(self) -> bool:
        """A channel is open."""
        return self._up

    async def run(self) -> None:
        """Connect and reconnect until closed."""
        pause_s = 0.1
        while not self._closing:
            if await self._connect():
                opened_at = time.monotonic()
                await self._wait_until_gone()
                if time.monotonic() - opened_at > self._settings.reconnect_max_s:
                    pause_s = 0.1  # not where it is let in and then refused, again and again
                if self._up:
                    self._up = False
                    self._on_lost()
                if not self._closing:
                    log.warning("broker_lost", extra={"link": self.name})
            if not self._closing:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, self._settings.reconnect_max_s)

    async def _wait_until_gone(self) -> None:
        """Until a callback says so; looked after by ourselves as well, since a node without its link is of no use."""
        while not self._gone.is_set():
            try:
                await asyncio.wait_for(self._gone.wait(), _LOOK_EVERY_S)
            except TimeoutError:
                if self._connection is None or not self._connection.is_open:
                    log.error("broker_loss_unnoticed", extra={"link": self.name})
                    return

    async def close(self) -> None:
        """Close for good. Whatever is still unconfirmed is given up by the owner before this."""
        self._closing = True
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                connection.close()
                await asyncio.wait_for(self._gone.wait(), 2)
            except TimeoutError:
                log.warning("broker_close_timed_out", extra={"link": self.name})
                self._abandon(connection)
            except AttributeError:
                pass  # its transport went a moment ago, and pika has not noticed yet
        self._gone.set()

    def reset(self) -> None:
        """Give up a connection that is open but of no use any more, and connect anew."""
        self._abandon(self._connection)
        self._gone.set()

    async def _connect(self) -> bool:
        opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self.blocked = False

        def failed(_connection: Any, error: Any) -> None:
            if not opened.done():
                log.warning("broker_connect_failed", extra={"link": self.name, "error": tls.explained("broker", error)})
                opened.set_result(False)
                self.on_failed_login()

        def ready(connection: AsyncioConnection) -> None:
            connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
            connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
            connection.channel(on_open_callback=channel_ready)

        def channel_ready(channel: Channel) -> None:
            if opened.done():
                return
            gone = self._gone
            channel.add_on_close_callback(lambda closed, _reason: self._channel_closed(closed, gone))
            self._up = True
            self._on_channel(channel)
            opened.set_result(True)

        def closed(_connection: Any, error: Any, gone: asyncio.Event = self._gone) -> None:
            if not opened.done():
                failed(_connection, error)
            gone.set()

        try:
            parameters = self._parameters()
        except OSError as error:  # a file of certificates that is just being replaced
            failed(None, error)
            return False
        connection = AsyncioConnection(
            parameters, on_open_callback=ready, on_open_error_callback=failed, on_close_callback=closed
        )
        self._connection = connection
        try:
            return await asyncio.wait_for(opened, CONNECT_DEADLINE_S + 1)
        except TimeoutError:
            log.warning("broker_connect_timed_out", extra={"link": self.name})
            self._abandon(connection)
            return False

    def _parameters(self) -> pika.URLParameters:
        """Those of the next broker in turn."""
        parameters = pika.URLParameters(self._urls[0])
        self._urls.rotate(-1)
        if (context := tls.context(self._settings)) is not None:
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
        parameters.heartbeat = self._settings.heartbeat_s
        parameters.socket_timeout = parameters.stack_timeout = CONNECT_DEADLINE_S
        parameters.client_properties = {"connection_name": f"votemill {self.name}"}
        return parameters

    def _channel_closed(self, channel: Channel, gone: asyncio.Event) -> None:
        # RabbitMQ closes a channel on a protocol error; a connection without its channel is of no use.
        if channel.connection.is_open:
            channel.connection.close()
        gone.set()

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        log.warning("broker_blocked" if blocked else "broker_unblocked", extra={"link": self.name})

    def _abandon(self, connection: AsyncioConnection | None) -> None:
        """Drop a connection whose other side doesn't answer: closing it politely would wait for that answer."""
        if connection is None or connection.is_closed:
            return
        transport = getattr(connection, "_transport", None)
        if transport is not None:
            # Not the transport's own abort: without a reason pika fails half-way, and the heartbeat goes on.
            connection._terminate_stream(pika.exceptions.StreamLostError("given up by us"))
