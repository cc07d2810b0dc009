"""Bytes of a voter's socket: WebSocket frames (RFC 6455) that carry Engine.IO 4 and Socket.IO 4 packets.

Lean on purpose: a vote's round trip should cost the tool a few microseconds of Python, or the tool and not the product
is what a load measures.
"""

import base64
import hashlib
import os
from typing import Any

import msgspec

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9
# Clients must mask, and the key may be any: with a key of zeros the masked bytes are the plain ones, which saves us
# the work and costs the server exactly what any other key would.
_ZERO_KEY = bytes(4)
MAX_FRAME_BYTES = 16_000_000

ENGINE_OPEN, ENGINE_CLOSE, ENGINE_PING = b"0", b"1", b"2"
SOCKET_CONNECT, SOCKET_DISCONNECT, SOCKET_CONNECT_ERROR = b"40", b"41", b"44"

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode


class ProtocolError(Exception):
    """The server sent bytes that the protocol doesn't allow."""


def upgrade_request(host: str, port: int) -> tuple[bytes, bytes]:
    """The HTTP request that opens a socket, and the ``Sec-WebSocket-Accept`` that must come back for it."""
    key = base64.b64encode(os.urandom(16))
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
    request = (
        f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return request.encode(), accept


def check_upgrade(head: bytes, accept: bytes) -> None:
    """Return when ``head`` (an HTTP response up to its empty line) opens the socket.

    :raises ProtocolError: any other answer; its status line is in the text
    """
    status, *lines = head.split(b"\r\n")
    if status.split(b" ", 2)[1:2] != [b"101"]:
        raise ProtocolError(f"no upgrade: {status[:100].decode(errors='replace')}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if headers.get(b"sec-websocket-accept") != accept:
        raise ProtocolError("no upgrade: wrong Sec-WebSocket-Accept")


def client_frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One masked, unfragmented frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + _ZERO_KEY + payload
    if size < 65536:
        return bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big") + _ZERO_KEY + payload
    return bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big") + _ZERO_KEY + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a WebSocket ping (Engine.IO's own pings are packets, see ``ENGINE_PONG_FRAME``)."""
    return client_frame(payload, 0xA)


ENGINE_PONG_FRAME = client_frame(b"3")
SOCKET_CONNECT_FRAME = client_frame(SOCKET_CONNECT)


def event_frame(ack_id: int, name: str, payload: object) -> bytes:
    """A Socket.IO event with one argument that wants an ack."""
    return client_frame(b"42%d" % ack_id + encode_json([name, payload]))


def split_ack(packet: bytes) -> tuple[int, int]:
    """``43<id>[...]`` to the id and the position of its ``[``.

    :raises ProtocolError: not an ack of the default namespace
    """
    bracket = packet.find(b"[", 2, 24)
    if bracket < 3:
        raise ProtocolError(f"not an ack: {packet[:60]!r}")
    return int(packet[2:bracket]), bracket


def ack_body(packet: bytes, bracket: int) -> dict[str, Any]:
    """The one object of an ack.

    :raises ProtocolError: anything but exactly one object
    """
    try:
        arguments = decode_json(packet[bracket:])
    except msgspec.DecodeError as error:
        raise ProtocolError(f"ack is not JSON: {error}") from None
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise ProtocolError(f"ack is not one object: {packet[:200]!r}")
    return arguments[0]


def event_body(packet: bytes) -> dict[str, Any]:
    """The one object of an event ``42[name, {...}]``; empty for an event without one."""
    arguments = decode_json(packet[packet.index(b"[") :])
    return arguments[1] if len(arguments) > 1 and isinstance(arguments[1], dict) else {}


class FrameReader:
    """Server frames out of a TCP stream, however it is cut; continuation frames are joined.

    ``pings`` holds payloads of WebSocket pings that want an answer; ``closed`` is set by a close frame.
    """

    __slots__ = ("_message", "_rest", "closed", "pings")

    def __init__(self) -> None:
        self._rest = b""
        self._message: bytes | None = None
        self.pings: list[bytes] = []
        self.closed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The text messages that ``data`` completes.

        :raises ProtocolError: a masked, compressed or oversized frame
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        messages: list[bytes] = []
        position, size = 0, len(data)
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length >= 126:
                if length > 127:
                    raise ProtocolError("a server's frame must not be masked")
                start += 2 if length == 126 else 8
                if start > size:
                    break
                length = int.from_bytes(data[position + 2 : start], "big")
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError(f"frame of {length} bytes")
            end = start + length
            if end > size:
                break
            if first == 0x81 and self._message is None:
                messages.append(data[start:end])
            else:
                self._unusual(first, data[start:end], messages)
            position = end
        if position < size:
            self._rest = data[position:]
        return messages

    def _unusual(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        if first & 0x70:
            raise ProtocolError("compressed frame though nothing was negotiated")
        opcode, fin = first & 0x0F, first & 0x80
        if opcode == _CLOSE:
            self.closed = True
        elif opcode == _PING:
            self.pings.append(payload)
        elif opcode <= _TEXT:
            if (opcode == _TEXT) is not (self._message is None):
                raise ProtocolError("continuation and text frames out of order")
            self._message = (self._message or b"") + payload
            if fin:
                messages.append(self._message)
                self._message = None
