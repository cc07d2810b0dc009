"""One WebSocket to a node, from the TCP connect to the Socket.IO session, then packets to whoever listens."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import cast

from scripts.loadtest import codec

_MAX_RESPONSE_HEAD_BYTES = 16_384


class ConnectionLost(Exception):
    """The socket is gone, or never came to be."""


class Connection(asyncio.Protocol):
    """Speaks the handshakes and the pings by itself; every other packet goes to ``hear``, the end to ``on_lost``.

    ``ready`` is done when the Socket.IO session stands. ``silence_limit_s`` (after the open packet): a node from which
    no ping came for so long is gone. ``problem`` says why the connection ended, when it was not just cut.
    """

    def __init__(self, host: str, port: int, hear: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._request, self._accept = codec.upgrade_request(host, port)
        self._hear = hear
        self._on_lost = on_lost
        self._head = b""
        self._upgraded = False
        self._frames = codec.FrameReader()
        self._receive: Callable[[bytes], None] = self._greet
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write: Callable[[bytes], None] = _write_nowhere
        self.heard_at = monotonic()
        self.silence_limit_s = 60.0
        self.problem = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self.write = self._transport.write
        self.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            if not self._upgraded:
                data = self._upgrade(data)
            for packet in self._frames.feed(data):
                self._receive(packet)
            if self._frames.pings or self._frames.closed:
                self._control()
        except codec.ProtocolError as error:
            self.problem = str(error)
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.write = _write_nowhere
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(ConnectionLost(self.problem or "connection lost during the handshake"))
            self.ready.exception()  # Whoever waited may have given up: not worth a warning then.
        self._on_lost()

    def abort(self) -> None:
        """Cut the connection without a word, as a lost network would."""
        if self._transport is not None:
            self._transport.abort()

    def _upgrade(self, data: bytes) -> bytes:
        head, end, rest = (self._head + data).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            if len(head) > _MAX_RESPONSE_HEAD_BYTES:
                raise codec.ProtocolError("endless response head")
            return b""
        codec.check_upgrade(head, self._accept)
        self._upgraded = True
        return rest

    def _greet(self, packet: bytes) -> None:
        kind = packet[:2]
        if kind[:1] == codec.ENGINE_OPEN:
            terms = codec.decode_json(packet[1:])
            self.silence_limit_s = (terms["pingInterval"] + terms["pingTimeout"]) / 1000
            self.heard_at = monotonic()
            self.write(codec.SOCKET_CONNECT_FRAME)
        elif kind == codec.SOCKET_CONNECT:
            self._receive = self._hear
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == codec.SOCKET_CONNECT_ERROR:
            raise codec.ProtocolError(f"session refused: {packet[2:200].decode(errors='replace')}")
        else:
            self.other(packet)

    def other(self, packet: bytes) -> None:
        """Packets that are no event and no ack. A server's DISCONNECT or CLOSE ends the connection."""
        if packet == codec.ENGINE_PING:
            self.heard_at = monotonic()
            self.write(codec.ENGINE_PONG_FRAME)
        elif packet[:2] == codec.SOCKET_DISCONNECT or packet == codec.ENGINE_CLOSE:
            self.problem = "disconnected by the server"
            self.abort()

    def _control(self) -> None:
        for payload in self._frames.pings:
            self.write(codec.pong_frame(payload))
        self._frames.pings.clear()
        if self._frames.closed:
            self.abort()


def _write_nowhere(_: bytes) -> None:
    """A connection that is gone swallows what is sent; the ledger shows it as unanswered until it is sent again."""
