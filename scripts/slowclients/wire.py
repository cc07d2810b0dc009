"""One connection of a slow client: bytes by hand, as few and as late as wanted."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from scripts.loadtest import codec

POLLING = "/socket.io/?EIO=4&transport=polling"
_SMALL_BUFFER = 4096


@dataclass(frozen=True)
class Target:
    """Whom to be slow to. ``beat_s``: the pause between two bytes. ``source``: the address to come from.

    ``questions``: what a client that reads nothing asks in a beat, so that it is answered.
    """

    host: str
    port: int
    room: str
    beat_s: float = 1.0
    source: str | None = None
    questions: int = 1


class Ended(Exception):
    """The server has ended the connection."""


class Wire:
    """A TCP connection. What the server says last is in ``heard``."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._target = target
        self._reader = reader
        self._writer = writer
        self.heard = b""

    def write(self, data: bytes) -> None:
        """:raises Ended:"""
        if self._writer.transport.is_closing():
            raise Ended
        self._writer.write(data)

    async def beat(self) -> None:
        """Wait, without reading.

        :raises Ended:
        """
        await asyncio.sleep(self._target.beat_s)
        if self._writer.transport.is_closing():
            raise Ended

    async def listen(self, seconds: float) -> bytes:
        """What comes within that time, at most 4 KB of it.

        :raises Ended:
        """
        try:
            async with asyncio.timeout(seconds):
                data = await self._reader.read(_SMALL_BUFFER)
        except TimeoutError:
            return b""
        except OSError:
            raise Ended from None
        self.heard = (self.heard + data)[-_SMALL_BUFFER:]
        if not data:
            raise Ended
        return data

    async def trickle(self, drops: Iterable[bytes]) -> None:
        """One drop a beat, and then nothing, until the server ends it.

        :raises Ended:
        """
        for drop in drops:
            self.write(drop)
            await self.listen(self._target.beat_s)
        while True:
            await self.listen(60)

    async def answer(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of one HTTP response.

        :raises Ended:
        """
        self.write(request(method, path, len(body)) + body)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            return await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            raise Ended from None

    async def upgrade(self, headers: str = "") -> None:
        """Become a WebSocket.

        :raises Ended:
        """
        ask, _ = codec.upgrade_request(self._target.host, self._target.port)
        self.write(ask.removesuffix(b"\r\n") + headers.encode() + b"\r\n")
        try:
            await self._reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            raise Ended from None


@asynccontextmanager
async def connection(target: Target, *, unread: bool = False) -> AsyncIterator[Wire]:
    """A connection; with ``unread`` one that can hold as little as possible of what it doesn't read.

    :raises OSError: not even that
    """
    raw = socket.socket()
    try:
        raw.setblocking(False)
        if unread:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        if target.source is not None:
            raw.bind((target.source, 0))
        await asyncio.get_running_loop().sock_connect(raw, (target.host, target.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=_SMALL_BUFFER if unread else 2**16)
    except BaseException:
        raw.close()
        raise
    try:
        yield Wire(target, reader, writer)
    finally:
        writer.transport.abort()


def request(method: str, path: str, size: int = 0, headers: str = "") -> bytes:
    """A request's head. ``size``: of the body that is to follow."""
    kind = "application/json" if path.startswith("/api") else "text/plain"
    body = f"Content-Type: {kind}\r\nContent-Length: {size}\r\n" if method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: slow\r\n{headers}{body}\r\n".encode()


async def polling_session(wire: Wire) -> str:
    """A session that polls; the path of its requests."""
    opening = json.loads((await wire.answer("GET", POLLING))[1:])
    path = f"{POLLING}&sid={opening['sid']}"
    await wire.answer("POST", path, b"40")
    return path
