"""Bounds of TCP connections, on a small application of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from aiohttp import web

from models.runtime.settings import NodeSettings, load
from scripts.stack.ports import LOOPBACK, any_free
from socket_tier import connections as module
from socket_tier.addresses import TrustedProxies
from socket_tier.connections import Connections, Runner
from socket_tier.http import BODIES, json_body, json_response
from socket_tier.refusals import Refused
from socket_tier.unfinished import Bodies, Unfinished
from tests.socket_tier.waiting import PATIENCE_S, eventually

_SETTINGS = {"header_deadline_s": 0.2, "body_deadline_s": 1, "unread_deadline_s": 0.2, "max_connections": 6}
_SLOW_HEADERS = b"GET / HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Site:
    """What runs, and what was cut off."""

    connections: Connections
    bodies: Bodies
    port: int
    settings: NodeSettings
    cut: list[tuple[str, str]] = field(default_factory=list)

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.cut]


class Caller:
    """One connection, with what came back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, object]]:
        """Status and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(head.split(" ")[1]), json.loads(await self.reader.readexactly(size))

    async def is_ended(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@pytest.fixture
def most_per_address() -> float:
    return 100


@pytest.fixture
async def site(most_per_address: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.05)
    settings = msgspec.structs.replace(load().node, **_SETTINGS)
    cut: list[tuple[str, str]] = []

    def note(reason: str, address: str) -> None:
        cut.append((reason, address))

    connections = Connections(settings, most_per_address, TrustedProxies(["127.0.0.8"]), note, {})
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[BODIES] = bodies = Bodies(Unfinished(130_000), settings.body_deadline_s, note)
    app.router.add_get("/", _hello)
    app.router.add_get("/hang", _hang)
    app.router.add_get("/much", _much)
    app.router.add_post("/", _echo)
    runner = Runner(app, connections, shutdown_timeout=0.1)
    await runner.setup()
    port = any_free()
    await web.TCPSite(runner, LOOPBACK, port).start()
    watching = asyncio.create_task(connections.run(), name="connections")
    yield Site(connections, bodies, port, settings, cut)
    watching.cancel()
    await runner.cleanup()


@pytest.fixture
async def call(site: Site) -> AsyncIterator[Callable[..., object]]:
    made: list[Caller] = []

    async def call(data: bytes = b"", source: str = "127.0.0.9") -> Caller:
        caller = Caller(*await asyncio.open_connection(LOOPBACK, site.port, local_addr=(source, 0), limit=2**17))
        made.append(caller)
        caller.writer.write(data)
        return caller

    yield call
    for caller in made:
        caller.writer.transport.abort()


async def _hello(_: web.Request) -> web.Response:
    return json_response({"hello": True})


async def _hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return json_response({})


async def _much(_: web.Request) -> web.Response:
    return web.Response(body=b"x" * 5_000_000)


async def _echo(request: web.Request) -> web.Response:
    try:
        return json_response({"size": len(str(await json_body(request)))})
    except Refused as refusal:
        return json_response(refusal.body(""), refusal.status)


def post(size: int, more: str = "", body: bytes = b"") -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n{more}\r\n"
    return head.encode() + body


@pytest.mark.proves("FR-014")
async def test_a_request_whose_headers_take_too_long_is_told_so(site, call):
    status, body = await (await call(_SLOW_HEADERS)).answer()
    assert (status, body["code"], body["success"]) == (408, "request_timeout", False)
    assert site.cut == [("slow_headers", "127.0.0.9")]
    await eventually(lambda: not len(site.connections), "the connection to be gone")


async def test_the_second_request_of_a_connection_has_the_same_deadline(site, call):
    caller = await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await caller.answer())[0] == 200
    caller.writer.write(_SLOW_HEADERS)
    assert (await caller.answer())[0] == 408


async def test_a_connection_that_says_nothing_is_closed_without_a_word(site, call):
    assert await (await call()).is_ended()
    assert site.reasons() == ["slow_headers"]


@pytest.mark.proves("FR-014")
@pytest.mark.parametrize("pieces", [1, 30], ids=["at once", "piece by piece"])
async def test_headers_beyond_their_limit_get_431(site, call, pieces):
    caller = await call(_SLOW_HEADERS)
    for number in range(pieces):
        caller.writer.write(f"X-{number}: {'x' * 600}\r\n".encode() * (30 // pieces))
        await caller.writer.drain()
        await asyncio.sleep(0)
    if pieces == 1:
        caller.writer.write(b"\r\n")  # and else there is no end to them
    status, body = await caller.answer()
    assert (status, body["code"]) == (431, "headers_too_large")
    assert site.reasons() == ["large_headers"]


@pytest.mark.proves("FR-014")
async def test_a_body_in_pieces_is_read_and_a_slow_one_is_refused(site, call):
    caller = await call(post(60_002, body=b'"' + b"x" * 30_000))
    await asyncio.sleep(0.05)
    caller.writer.write(b"x" * 30_000 + b'"')
    assert await caller.answer() == (200, {"size": 60_000})
    slow = await call(post(1000, body=b'"half'))
    status, body = await slow.answer()
    assert (status, body["code"]) == (408, "request_timeout")
    assert site.reasons()[-1] == "slow_body"
    assert await slow.is_ended()


@pytest.mark.proves("FR-014")
async def test_when_half_bodies_fill_their_memory_the_largest_is_given_up(site, call):
    small = await call(post(40_002, body=b'"' + b"x" * 30_000))
    large = await call(post(90_002, body=b'"' + b"x" * 80_000))
    await eventually(lambda: site.bodies.unfinished.held == 110_002, "both to be held")
    other = await call(post(40_002, body=b'"' + b"x" * 30_000))
    assert (await large.answer())[0] == 503
    for caller in (small, other):
        caller.writer.write(b"x" * 10_000 + b'"')
        assert await caller.answer() == (200, {"size": 40_000})
    assert site.reasons() == ["unfinished"]
    assert site.bodies.unfinished.held == 0


@pytest.mark.proves("FR-014")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (post(10, "Content-Encoding: gzip\r\n", b"0123456789"), 415, "invalid_content_encoding"),
        (post(100_003, body=b'"' + b"x" * 100_001 + b'"'), 413, "payload_too_large"),
        (post(5, body=b"[1,2,"), 400, "invalid_json"),
        (post(90_000, body=b"[" * 90_000), 400, "invalid_json"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n", 400, "bad_request"),
    ],
)
async def test_what_is_no_request_of_ours_is_refused_in_words(site, call, sent, status, code):
    answered, body = await (await call(sent)).answer()
    assert (answered, body["code"], body["success"]) == (status, code, False)


async def test_requests_that_pile_up_behind_one_that_hangs_end_the_connection(site, call):
    caller = await call(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.05)
    caller.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9)
    assert await caller.is_ended()
    assert site.reasons() == ["pipelining"]


@pytest.mark.proves("FR-014")
async def test_who_reads_nothing_of_an_answer_is_cut_off(site, call):
    caller = await call(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
    caller.reader._transport.pause_reading()
    await eventually(lambda: site.reasons() == ["unread"], "the end")
    await eventually(lambda: not len(site.connections), "the connection to be gone")


async def test_when_slow_readers_fill_their_memory_the_one_with_most_goes_first(site, call):
    site.connections.settings = msgspec.structs.replace(site.settings, unread_deadline_s=60, max_unread_bytes=6_000_000)
    callers = [await call(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
    for caller in callers:
        caller.reader._transport.pause_reading()
    await eventually(lambda: site.reasons() == ["unread"], "one to go")
    await eventually(lambda: len(site.connections) == 1, "its end")


async def test_a_closed_connection_whose_last_bytes_are_never_read_ends_all_the_same(site, call):
    site.connections.settings = msgspec.structs.replace(site.settings, unread_deadline_s=60)
    caller = await call(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    caller.reader._transport.pause_reading()
    await eventually(lambda: len(site.connections) == 1, "the connection")
    (connection,) = site.connections._open
    connection._wire.write(b"x" * 5_000_000)
    connection._wire.close()
    await eventually(lambda: not len(site.connections), "its end")


@pytest.mark.proves("FR-009", "FR-014")
@pytest.mark.parametrize("most_per_address", [3])
async def test_one_address_has_so_many_connections_and_others_have_theirs(site, call):
    ours = [await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(3)]
    assert [await caller.answer() for caller in ours] == [(200, {"hello": True})] * 3
    assert await (await call()).is_ended()
    assert site.cut == [("connections_of_address", "127.0.0.9")]
    assert (await (await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "127.0.0.10")).answer())[0] == 200
    # And when one is closed there is a place again
    ours[0].writer.close()
    await eventually(lambda: len(site.connections) == 3, "its end")
    assert (await (await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).answer())[0] == 200


@pytest.mark.parametrize("most_per_address", [1])
async def test_a_trusted_proxy_has_no_limit_of_its_own(site, call):
    callers = [await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "127.0.0.8") for _ in range(4)]
    assert [await caller.answer() for caller in callers] == [(200, {"hello": True})] * 4


@pytest.mark.proves("FR-014")
async def test_when_all_places_are_taken_the_silent_give_way_and_then_nobody_is_let_in(site, call):
    # Given all places taken, two of them by callers that say nothing
    silent = [await call() for _ in range(2)]
    await eventually(lambda: len(site.connections) == 2, "the silent")
    busy = [await call(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(4)]
    await eventually(lambda: len(site.connections) == 6, "all places to be taken")
    # When others come, then the silent go
    polite = await call(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    await eventually(lambda: "gave_way" in site.reasons(), "the first to give way")
    busy += [polite, await call(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")]
    assert all([await caller.is_ended() for caller in silent])
    # And when there are none, the newcomer
    assert await (await call(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).is_ended()
    assert site.reasons()[-1] == "connections_full"
    assert len(site.connections) == 6
