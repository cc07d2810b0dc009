"""The kinds of slow clients. Each is one client until the server ends it, which raises ``Ended``."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator

from scripts.loadtest import codec
from scripts.slowclients.wire import Target, Wire, connection, polling_session, request

Kind = Callable[[Target], Awaitable[None]]

_LARGE = 50_000
_PONG_EVERY = 10  # beats
_PAGE = "/assets/vendor/socket.io.esm.min.js"
_TEXT_BEGINS, _CONTINUES = 0x01, 0x00
_WHOLE = 0x80


async def silent(target: Target) -> None:
    """Connects and says nothing."""
    async with connection(target) as wire:
        await wire.trickle([])


async def request_line(target: Target) -> None:
    """A request line of which one byte comes a beat."""
    async with connection(target) as wire:
        await wire.trickle(itertools.chain([b"GET /"], itertools.repeat(b"a")))


async def headers(target: Target) -> None:
    """A header a beat, and never the last."""
    async with connection(target) as wire:
        await wire.trickle(_headers_without_end(request("GET", "/")))


async def handshake(target: Target) -> None:
    """The same in a WebSocket's handshake."""
    ask, _ = codec.upgrade_request(target.host, target.port)
    async with connection(target) as wire:
        await wire.trickle(_headers_without_end(ask))


async def body(target: Target) -> None:
    """A new poll of which one byte comes a beat."""
    async with connection(target) as wire:
        await wire.trickle(_slowly(request("POST", "/api/polls", _LARGE)))


async def polling_post(target: Target) -> None:
    """The same on the polling transport."""
    async with connection(target) as wire:
        path = await polling_session(wire)
        await wire.trickle(_slowly(request("POST", path, _LARGE)))


async def polling_get(target: Target) -> None:
    """Looks on in the room by polling, asks again every beat and reads nothing; pings are answered."""
    async with connection(target) as other, connection(target, unread=True) as wire:
        path = await polling_session(other)
        await other.answer("POST", path, _look_on(target))
        for beat in itertools.count(1):
            wire.write(request("GET", path))
            await wire.beat()
            if beat % _PONG_EVERY == 0:
                await other.answer("POST", path, b"3")


async def unread_page(target: Target) -> None:
    """Asks for the page again and again, and reads nothing."""
    async with connection(target, unread=True) as wire:
        while True:
            wire.write(request("GET", _PAGE))
            await wire.beat()


async def unread(target: Target) -> None:
    """Looks on in the room and makes the node say much, answers pings, and reads nothing."""
    async with connection(target, unread=True) as wire:
        await _connected(wire)
        wire.write(codec.client_frame(_look_on(target)))
        for beat in itertools.count(1):
            if beat % _PONG_EVERY == 0:
                wire.write(codec.ENGINE_PONG_FRAME)
            wire.write(codec.client_frame(b'421["no-such-event",{}]') * target.questions)
            await wire.beat()


async def half_frame(target: Target) -> None:
    """A frame of which one byte comes a beat."""
    async with connection(target) as wire:
        await _connected(wire)
        await wire.trickle(_slowly(codec.client_frame(b"4" * _LARGE)[: _LARGE // 2]))


async def fragments(target: Target) -> None:
    """A message in fragments of one byte, without end."""
    async with connection(target) as wire:
        await _connected(wire)
        begins, continues = _fragment(_TEXT_BEGINS, b"4"), _fragment(_CONTINUES, b"x")
        await wire.trickle(itertools.chain([begins], itertools.repeat(continues)))


async def never_connected(target: Target) -> None:
    """A WebSocket that answers pings and never sends CONNECT."""
    async with connection(target) as wire:
        await wire.upgrade()
        await _answer_pings(wire)


async def left(target: Target) -> None:
    """A WebSocket that leaves the namespace and goes on to answer pings."""
    async with connection(target) as wire:
        await _connected(wire)
        wire.write(codec.client_frame(b"41"))
        await _answer_pings(wire)


KINDS: dict[str, Kind] = {
    each.__name__.replace("_", "-"): each
    for each in (
        silent,
        request_line,
        headers,
        handshake,
        body,
        polling_post,
        polling_get,
        unread_page,
        unread,
        half_frame,
        fragments,
        never_connected,
        left,
    )
}


async def _connected(wire: Wire) -> None:
    await wire.upgrade()
    wire.write(codec.SOCKET_CONNECT_FRAME)


async def _answer_pings(wire: Wire) -> None:
    frames = codec.FrameReader()
    while True:
        for packet in frames.feed(await wire.listen(60)):
            if packet == codec.ENGINE_PING:
                wire.write(codec.ENGINE_PONG_FRAME)


def _headers_without_end(head: bytes) -> Iterator[bytes]:
    yield head.removesuffix(b"\r\n")
    yield from itertools.repeat(b"X-More: x\r\n")


def _slowly(start: bytes) -> Iterator[bytes]:
    yield start
    yield from itertools.repeat(b" ")


def _fragment(head: int, payload: bytes) -> bytes:
    frame = codec.client_frame(payload)
    return bytes((head,)) + frame[1:]


def _look_on(target: Target) -> bytes:
    return b"42" + codec.encode_json(["join", {"roomCode": target.room, "viewer": True}])
