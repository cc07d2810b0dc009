"""The engine.io server that makes direct sockets, and looks after all of them in one task."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WebSocketReader
from engineio import exceptions, packet
from engineio.async_drivers import aiohttp as aiohttp_driver

from socket_tier.transport.direct_socket import DirectSocket, Lane
from socket_tier.transport.driver import Engine
from socket_tier.transport.unhurried import Unhurried

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_CHUNK = 500
_QUEUE_LIMIT_BYTES = 2**16
_SMALL_PART_BYTES = 4096  # so much of each message is bounded well enough by the number of connections


def _ignore(*_: Any) -> None:
    """Nobody counts."""


class DirectEngine(Engine):
    """``lane`` is offered each text message of a WebSocket client before python-socketio sees it.

    ``on_dropped(reason, sid)`` hears of each client that was cut off.
    """

    soft_cap_bytes = 64 * 1024
    hard_cap_bytes = 1024 * 1024
    connect_deadline_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._async["websocket"] = _WebSocket
        self.sockets: dict[str, DirectSocket]
        self.start_service_task: bool
        self.lane: Lane | None = None
        self.on_dropped: Callable[[str, str], None] = _ignore
        self.on_owed: Callable[[DirectSocket, str], None] = _ignore
        self.unhurried = Unhurried()

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        """As in engine.io, with a DirectSocket, and with one task that looks after all sockets."""
        if self.start_service_task:
            self.start_service_task = False
            self.service_task_handle = self.start_background_task(self._service_task)
        sid = self.generate_id()
        socket = self.sockets[sid] = DirectSocket(self, sid)
        opening = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1000),
            "pingInterval": int((self.ping_interval + self.ping_interval_grace_period) * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        await socket.send(packet.Packet(packet.OPEN, opening))
        refused = await self._trigger_event("connect", sid, environ, run_async=False)
        if refused is not None and refused is not True:
            del self.sockets[sid]
            return self._unauthorized(refused or None)
        socket.schedule_ping()
        if transport == "websocket":
            try:
                return await socket.handle_get_request(environ)
            except OSError:
                await socket.close(wait=False, abort=True)  # the client went away in the middle of the handshake
                raise
            finally:
                if socket.closed:
                    self.sockets.pop(sid, None)
        socket.connected = True
        try:
            return self._ok(await socket.poll(), jsonp_index=jsonp_index)
        except exceptions.QueueEmpty:
            return self._bad_request()

    async def _service_task(self) -> None:
        """Once a second: ping who is due, close who doesn't answer or never finished connecting, pay what is owed."""
        self.service_task_event = self.create_event()
        while not self.service_task_event.is_set():
            now = time.monotonic()
            for position, socket in enumerate(list(self.sockets.values()), 1):
                if now < socket.look_at and not socket.closed and not socket.owed:
                    continue  # most of them, most of the time: a call for each was half of what idle clients cost
                try:
                    await self._look_after(socket)
                except Exception:
                    # One broken client must not end the pings of all others.
                    log.exception("socket_failed", extra={"eio_sid": socket.sid})
                if position % _CHUNK == 0:
                    await asyncio.sleep(0)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self.service_task_event.wait()
            except TimeoutError:
                continue

    async def _look_after(self, socket: DirectSocket) -> None:
        now = time.monotonic()
        if socket.closed:
            self.sockets.pop(socket.sid, None)
        elif socket.closing:
            return
        elif socket.poll_broke_off():
            await socket.close(wait=False, abort=True, reason=self.reason.TRANSPORT_CLOSE)
        elif socket.last_ping is not None and now - socket.last_ping > self.ping_timeout:
            self.on_dropped("silent", socket.sid)
            await socket.close(wait=False, reason=self.reason.PING_TIMEOUT)
        elif not socket.joined and now - socket.outside_since > self.connect_deadline_s:
            self.on_dropped("left" if socket.has_left else "never_connected", socket.sid)
            await socket.close(wait=False)
        elif socket.next_ping_at is not None and now >= socket.next_ping_at:
            socket.next_ping_at = None
            socket.last_ping = now
            await socket.send(packet.Packet(packet.PING))
        quiet = socket.joined and socket.wire is not None  # a WebSocket tells its end by itself, a poll doesn't
        socket.look_at = socket.next_ping_at if quiet and socket.next_ping_at is not None else 0.0
        for room in list(socket.owed):
            self.on_owed(socket, room)


class _WebSocket(aiohttp_driver.WebSocket):
    """The driver: an aiohttp WebSocket without permessage-deflate, which costs 86 KB a connection."""

    request: web.Request
    response: "_Response"

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        self.request = environ["aiohttp.request"]
        socket: DirectSocket = self.handler.__self__
        self.response = self._sock = _Response(socket, self.server.max_http_buffer_size)
        await self.response.prepare(self.request)
        await self.handler(self)
        return self.response

    async def wait_text(self) -> bytes | None:
        """The next message, None when it isn't text or there is none."""
        message = await self.response.receive()
        return message.data if message.type is WSMsgType.TEXT else None


class _Response(web.WebSocketResponse):
    """Hands each message over in the step in which aiohttp has parsed it."""

    def __init__(self, socket: DirectSocket, max_message_bytes: int) -> None:
        super().__init__(max_msg_size=max_message_bytes, compress=False, decode_text=False, timeout=2)
        self._direct = socket

    def _post_start(self, request: Any, protocol: str | None, writer: Any) -> None:
        # As in aiohttp 3.14, with a queue of ours. tests/socket_tier/test_transport.py fails when that changes.
        self._ws_protocol = protocol
        self._writer = writer
        self._reader = _LaneQueue(request._protocol, _QUEUE_LIMIT_BYTES, loop=asyncio.get_running_loop())
        self._reader.direct = self._direct
        self._parser = WebSocketReader(self._reader, self._max_msg_size, compress=False, decode_text=False)
        request.protocol.set_parser(_Incoming(self._parser, self._reader, request.transport))
        request.protocol.keep_alive(False)


class _Incoming:
    """aiohttp's parser of one WebSocket, with a count of what it holds of a message that is not yet whole."""

    __slots__ = ("_counted", "_parser", "_queue", "_unfinished", "_wire")

    def __init__(self, parser: WebSocketReader, queue: "_LaneQueue", wire: asyncio.Transport) -> None:
        self._parser = parser
        self._queue = queue
        self._unfinished = queue.direct.server.bodies.unfinished
        self._counted = False
        self._wire = wire

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        queue = self._queue
        queue.part_bytes += len(data)
        fed: tuple[bool, bytes] = self._parser.feed_data(data)
        if queue.part_bytes > _SMALL_PART_BYTES:
            self._counted = True
            self._unfinished.holds(self, queue.part_bytes)
        elif self._counted:
            self._counted = False
            self._unfinished.done(self)
        return fed

    def feed_eof(self) -> None:
        self._unfinished.done(self)
        self._parser.feed_eof()

    def give_up(self) -> None:
        self._queue.direct.drop("unfinished")
        self._wire.abort()  # also of a WebSocket that the session has not upgraded to


class _LaneQueue(WebSocketDataQueue):
    direct: DirectSocket
    part_bytes = 0  # received since the last whole message

    def feed_data(self, data: Any, size: int) -> None:
        socket = self.direct
        if data.type is WSMsgType.TEXT or data.type is WSMsgType.BINARY:
            self.part_bytes = 0
        if data.data == b"3" and data.type is WSMsgType.TEXT:
            socket.schedule_ping()  # thousands of idle clients say nothing else: not worth waking their tasks
            return
        lane = socket.lane
        if lane is not None and not socket.busy and not self._buffer and data.type is WSMsgType.TEXT:
            try:
                if lane(socket, data.data):
                    return
            except Exception:
                # aiohttp's parser can't pass an exception on; the slow path answers the client.
                log.exception("lane_failed")
        super().feed_data(data, size)
