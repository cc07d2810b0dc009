"""One client's engine.io session, written to directly."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web
from engineio import exceptions, packet
from engineio.async_socket import AsyncSocket

from socket_tier.transport.driver import decode, decode_payload
from socket_tier.transport.frames import binary_frame, close_frame, text_frame

if TYPE_CHECKING:
    from socket_tier.transport.engine import DirectEngine

log = logging.getLogger(__name__)

SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
_POLLING_PACKETS_HELD = 512

Lane = Callable[["DirectSocket", bytes], bool]


def _pass_over(_socket: "DirectSocket", _message: bytes) -> bool:
    return True


class DirectSocket(AsyncSocket):
    """Writes frames to the TCP transport in order, at once; reads without a task per message.

    ``lane(socket, data)`` sees each text message first and returns True when it has taken care of it; the others are
    handled one after the other, and the lane waits while one of them is. What is pending for a client that doesn't
    read is bounded: beyond ``soft_cap_bytes`` results are skipped (and owed), beyond ``hard_cap_bytes`` it is dropped.
    """

    server: "DirectEngine"

    def __init__(self, server: "DirectEngine", sid: str) -> None:
        super().__init__(server, sid)
        self.connected: bool = False
        self.last_ping: float | None = None  # time.monotonic(): sent and not answered yet
        self.wire: asyncio.Transport | None = None
        self.lane: Lane | None = None
        self.busy = False
        self.joined = False  # in the Socket.IO namespace
        self.has_left = False
        self.outside_since = time.monotonic()
        self.next_ping_at: float | None = None
        self.look_at = 0.0  # time.monotonic(): nothing is due before
        self.owed: set[str] = set()  # rooms whose newest results were skipped
        self.held_since = 0
        self._held = b""
        self._held_results: dict[str, bytes] = {}  # by room, the newest alone
        self._queued = False  # among the engine's unhurried
        self._dropped = False
        self._poll: web.Request | None = None  # the one that hangs
        self._trying = False  # a WebSocket is open that may become this session's
        self.voter: Any = None  # the lane's own view of this client

    def push(self, frame: bytes) -> None:
        """Write one whole frame behind everything written before. The client must be on WebSocket."""
        wire = self.wire
        if wire is None or wire.is_closing():
            return
        if wire.get_write_buffer_size() > self.server.hard_cap_bytes:
            self.drop("slow")
            return
        if self._held or self._held_results:
            frame = self._take_held() + frame
        wire.write(frame)

    def push_soon(self, frame: bytes) -> None:
        """Like ``push``, for what nobody waits for: goes with the next frame, at the latest a moment later."""
        if self.wire is not None:
            if not self._held and not self._held_results:
                self._begin_holding()
            self._held += frame

    def push_results_soon(self, room: str, frame: bytes) -> None:
        """Like ``push_soon``, in place of a room's older results that are still held."""
        if self.wire is not None:
            if not self._held and not self._held_results:
                self._begin_holding()
            self._held_results[room] = frame

    def _begin_holding(self) -> None:
        unhurried = self.server.unhurried
        self.held_since = unhurried.step
        if not self._queued:
            self._queued = True
            unhurried.add(self)

    def holds_frames(self) -> bool:
        return bool(self._held or self._held_results)

    def write_held(self) -> None:
        self.push(b"")

    def left_queue(self) -> None:
        self._queued = False

    def _take_held(self) -> bytes:
        held, self._held = self._held, b""
        if self._held_results:
            held += b"".join(self._held_results.values())
            self._held_results.clear()
        return held

    def has_caught_up(self, room: str) -> bool:
        """Whether this client has read enough to be shown results of a room; if not they are owed to it."""
        wire = self.wire
        if wire is not None and wire.get_write_buffer_size() > self.server.soft_cap_bytes:
            self.owed.add(room)
            return False
        self.owed.discard(room)
        return True

    async def send(self, pkt: packet.Packet) -> None:
        """:raises SocketIsClosedError:"""
        if self.closed:
            raise exceptions.SocketIsClosedError()
        if self.wire is None:
            self.hold(pkt)
        else:
            self._write(pkt)

    def hold(self, pkt: packet.Packet | None) -> None:
        """Queue for a client that polls, or that is on its way to WebSocket."""
        if self.queue.qsize() >= _POLLING_PACKETS_HELD and pkt is not None:
            self.drop("slow")
            return
        self.queue.put_nowait(pkt)

    def schedule_ping(self) -> None:
        self.last_ping = None
        self.next_ping_at = time.monotonic() + self.server.ping_interval

    def drop(self, reason: str) -> None:
        """Cut a client off that is of no use any more; counted under its reason."""
        if self._dropped or self.closing or self.closed:
            return
        self._dropped = True
        self.server.on_dropped(reason, self.sid)
        log.info("client_dropped", extra={"reason": reason, "eio_sid": self.sid})
        if self.wire is not None:
            self.wire.abort()
        else:
            self.server.start_background_task(self.close, wait=False, abort=True)

    def leave_namespace(self) -> None:
        """From now on it has as long as a new client to connect again; who stays outside is no use to anybody."""
        self.joined = False
        self.has_left = True
        self.outside_since = time.monotonic()
        self.look_at = 0.0

    def stop_listening(self) -> None:
        """Pass over what the client still says by WebSocket: unanswered, it is said again over the next connection."""
        self.lane = _pass_over

    def go_away(self, code: int = SERVICE_RESTART) -> None:
        """End the transport behind what is written: the client connects anew, here or elsewhere."""
        if self.wire is None:
            self.queue.put_nowait(None)
        else:
            self._end_wire(code)

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        await super().close(wait=False, abort=abort, reason=reason)
        if self.wire is None:
            if abort:
                self.queue.put_nowait(packet.Packet(packet.NOOP))  # ends the poll that hangs
        else:
            self._end_wire(WSCloseCode.OK)

    def _end_wire(self, code: int) -> None:
        if self.wire is not None and not self.wire.is_closing():
            self.wire.write(self._take_held() + close_frame(code))
            self.wire.close()

    async def handle_get_request(self, environ: dict[str, Any]) -> Any:
        """As in engine.io, for a poll or a WebSocket; a poll is kept in sight while it hangs."""
        if "HTTP_UPGRADE" in environ:
            return await super().handle_get_request(environ)
        self._poll = environ["aiohttp.request"]
        try:
            return await super().handle_get_request(environ)
        finally:
            self._poll = None

    def poll_broke_off(self) -> bool:
        """Whether the client hung up on its poll: it has left, or begins anew, and what is sent to it would be lost."""
        return self.wire is None and self._poll is not None and self._poll.transport is None

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        """Handle a polling client's packets one after the other.

        :raises EngineIOError: too long, not whole or not a payload; it ends the session, so that the client knows
        """
        length = int(environ.get("CONTENT_LENGTH", "0"))
        if length > self.server.max_http_buffer_size:
            raise exceptions.ContentTooLongError()
        try:
            packets = decode_payload(await environ["wsgi.input"].read(length))
        except (exceptions.EngineIOError, ValueError, LookupError) as error:
            if self.closed:
                return  # meanwhile; the server would stumble over an error of a session that is gone
            raise exceptions.EngineIOError("not a payload") from error
        for pkt in packets:
            await self.receive(pkt)

    async def _websocket_handler(self, ws: Any) -> None:
        if self._trying:
            return  # two WebSockets can't both become this session's
        if self.connected:
            if not await self._upgrade(ws):
                return
        else:
            self.connected = self.upgraded = True
        self._go_direct(ws.request.transport)
        try:
            await self._read(ws.response)
        finally:
            self.wire = None
            await super().close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)

    async def _upgrade(self, ws: Any) -> bool:
        """From polling to WebSocket: probe, end the poll that hangs, wait for the client's word.

        What is sent from the probe on stays in the queue, so that nothing overtakes it. Until then polls go on: some
        proxies let a WebSocket be opened and nothing through it.
        """
        self._trying = True
        try:
            async with asyncio.timeout(self.server.ping_timeout):
                if await ws.wait_text() != b"2probe":
                    return False
                self.upgrading = True
                await ws.send("3probe")
                self.hold(packet.Packet(packet.NOOP))
                self.upgraded = await ws.wait_text() == b"5"
        except TimeoutError:
            log.info("upgrade_timed_out", extra={"eio_sid": self.sid})
        finally:
            self.upgrading = self._trying = False
        return self.upgraded

    def _go_direct(self, wire: asyncio.Transport) -> None:
        """From here on frames go straight out. No await between the queue's last packet and the first direct one."""
        self.wire = wire
        while not self.queue.empty():
            pkt = self.queue.get_nowait()
            self.queue.task_done()
            if pkt is not None and pkt.packet_type != packet.NOOP:
                self._write(pkt)
        self.lane = self.server.lane

    async def _read(self, response: Any) -> None:
        while not self.closed:
            message = await response.receive()
            if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
                return
            try:
                pkt = decode(message.data.decode() if message.type is WSMsgType.TEXT else message.data)
            except ValueError as error:
                log.info("malformed_message", extra={"error": type(error).__name__, "bytes": len(message.data)})
                self.lane = None
                await response.close(code=WSCloseCode.INVALID_TEXT)
                return
            self.busy = True
            try:
                await self.receive(pkt)
            except exceptions.EngineIOError as error:
                log.info("unexpected_packet", extra={"error": type(error).__name__, "type": pkt.packet_type})
            finally:
                self.busy = False

    def _write(self, pkt: packet.Packet) -> None:
        encoded = pkt.encode()
        if isinstance(encoded, str):
            self.push(text_frame(encoded.encode()))
        else:
            self.push(binary_frame(encoded))
