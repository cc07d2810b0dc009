"""The Socket.IO server: python-socketio, hardened at the places where a malformed packet would go unanswered."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import engineio
import msgspec
import socketio
from engineio.payload import Payload
from socketio import packet

from models.runtime.correlation import begin
from models.runtime.settings import Settings
from socket_tier.fanout import Fanout
from socket_tier.limits import Limits
from socket_tier.refusals import Invalid, Refused
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.engine import DirectEngine
from socket_tier.transport.stock import StockEngine
from socket_tier.unfinished import Bodies

log = logging.getLogger(__name__)

_EVENT_HEAD = re.compile(r"(?P<kind>[25])(?:\d+-)?(?:/[^,\[]*,)?(?P<ack>\d{1,9})?\[")
_PACKETS_PER_PAYLOAD = 1000
_RESERVED_EVENTS = frozenset({"connect", "disconnect", "connect_error"})


class JsonCodec:
    """msgspec in the shape of the standard json module, as python-socketio wants it."""

    _encoder = msgspec.json.Encoder()
    _decoder = msgspec.json.Decoder()

    @classmethod
    def dumps(cls, value: Any, **_options: Any) -> str:
        return cls._encoder.encode(value).decode()

    @classmethod
    def loads(cls, text: str | bytes, **_options: Any) -> Any:
        return cls._decoder.decode(text)


class _Packet(packet.Packet):
    """Ours: python-socketio sets the codec on the class, which others in this process may share."""


class SocketServer(socketio.AsyncServer):
    """Answers every event that asks for an ack with exactly one object, also those that can't be decoded."""

    def __init__(self, settings: Settings, fanout: Fanout, limits: Limits, bodies: Bodies) -> None:
        self.on_malformed: Callable[[str, Invalid], Refused] = lambda sid, refusal: refusal
        self.on_dropped: Callable[[str, str], None] = lambda reason, address: None
        self._limits = limits
        self._connect_deadline_s = settings.node.connect_deadline_s
        self._max_event_bytes = settings.node.max_event_bytes
        self._direct = settings.node.transport == "direct"
        # socket.io-client sends all that it has buffered in one payload; engine.io's own limit is 16.
        Payload.max_decode_packets = _PACKETS_PER_PAYLOAD
        super().__init__(
            async_mode="aiohttp",
            client_manager=fanout,
            # One event of a client after the other: ordered, and bounded by the client itself.
            async_handlers=False,
            serializer=_Packet,
            json=JsonCodec,
            cors_allowed_origins=list(settings.security.all_origins),
            cors_credentials=True,
            max_http_buffer_size=settings.node.max_packet_bytes,
            ping_interval=settings.node.ping_interval_s,
            ping_timeout=settings.node.ping_timeout_s,
            http_compression=False,
            # Loggers and not False, for which each would add a handler of its own that writes beside our lines.
            logger=logging.getLogger("socketio.server"),
            engineio_logger=logging.getLogger("engineio.server"),
            namespaces=["/"],
        )
        self.eio.bodies = bodies
        if isinstance(self.eio, DirectEngine):
            self.eio.soft_cap_bytes = settings.node.slow_client_skip_bytes
            self.eio.hard_cap_bytes = settings.node.slow_client_drop_bytes
            self.eio.connect_deadline_s = self._connect_deadline_s
            self.eio.on_dropped = self._dropped

    def direct_socket(self, sid: str) -> DirectSocket | None:
        """The client's own socket; None on the stock transport."""
        socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, "/"))
        return socket if isinstance(socket, DirectSocket) else None

    def go_away(self, eio_sid: str) -> None:
        """Close one client's transport, so that it connects anew elsewhere."""
        socket = self.eio.sockets.get(eio_sid)
        if isinstance(socket, DirectSocket):
            socket.go_away()
        elif socket is not None:
            socket.queue.put_nowait(None)  # ends the writer, which closes the transport behind what is queued

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return DirectEngine if self._direct else StockEngine

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self._limits.session_opened(_address(environ))
        self._expect_connect(eio_sid)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        environ = self.environ.get(eio_sid)
        try:
            await super()._handle_eio_disconnect(eio_sid, reason)
        finally:
            if environ is not None:
                self._limits.session_closed(_address(environ))

    async def _handle_disconnect(self, eio_sid: str, namespace: str, reason: str | None = None) -> None:
        await super()._handle_disconnect(eio_sid, namespace, reason)
        socket = self.eio.sockets.get(eio_sid)
        if isinstance(socket, DirectSocket):
            socket.leave_namespace()
        elif socket is not None and not socket.closing:
            self._expect_connect(eio_sid)

    def _expect_connect(self, eio_sid: str) -> None:
        """Close a client that stays outside the namespace. The direct transport looks after that by itself."""
        if not self._direct:
            asyncio.get_running_loop().call_later(self._connect_deadline_s, self._close_outsider, eio_sid)

    def _close_outsider(self, eio_sid: str) -> None:
        if eio_sid in self.eio.sockets and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            self._dropped("never_connected", eio_sid)
            self.eio.start_background_task(self.eio.disconnect, eio_sid)
            self.go_away(eio_sid)

    def _dropped(self, reason: str, eio_sid: str) -> None:
        environ = self.environ.get(eio_sid)
        self.on_dropped(reason, _address(environ) if environ is not None else "")

    async def _handle_connect(self, eio_sid: str, namespace: str, data: Any) -> None:
        await super()._handle_connect(eio_sid, namespace, data)
        socket = self.eio.sockets.get(eio_sid)
        if isinstance(socket, DirectSocket) and self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            socket.joined = True

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        if not isinstance(data, str):
            return  # bare JSON, or the attachment of a binary event, which was refused when its head came
        if data.startswith("5"):
            await self._refuse(eio_sid, data, "Invalid payload: binary is not supported", "invalid_payload")
        elif data.startswith("6"):
            return
        elif len(data) > self._max_event_bytes:
            await self._refuse(eio_sid, data, "Invalid payload: too large", "payload_too_large")
        else:
            try:
                await super()._handle_eio_message(eio_sid, data)
            except (
                msgspec.MsgspecError,
                ValueError,
                TypeError,
                KeyError,
                IndexError,
                AttributeError,
                RecursionError,
            ):
                await self._refuse(eio_sid, data, "Invalid payload: not a Socket.IO packet", "malformed_packet")

    async def _handle_event(self, eio_sid: str, namespace: str, id: int | None, data: Any) -> None:
        if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in _RESERVED_EVENTS:
            raise ValueError("not an event")
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _refuse(self, eio_sid: str, data: str, error: str, code: str) -> None:
        correlation = begin()
        log.debug("packet_refused", extra={"code": code, "bytes": len(data)})
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        refusal = self.on_malformed(sid or "", Invalid(error, code))
        head = _EVENT_HEAD.match(data[:200])
        if head is None or head["ack"] is None or sid is None:
            return
        await self.eio.send(eio_sid, f"3{head['ack']}[{JsonCodec.dumps(refusal.body(correlation))}]")


def _address(environ: dict[str, Any]) -> str:
    """Of the client of an Engine.IO session."""
    address: str = environ["aiohttp.request"]["address"]
    return address
