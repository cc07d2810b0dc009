"""Slow, endless and oversized senders and readers against a running node, and an honest voter beside them."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from scripts.loadtest import codec
from scripts.slowclients.kinds import KINDS
from scripts.slowclients.wire import POLLING, Ended, Target, connection, request
from scripts.stack.ports import LOOPBACK
from tests.security.conftest import Audited, GuardedNode, guarded_node
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import PATIENCE_S, eventually

FORWARDED = "X-Forwarded-For"
_OF_EACH_KIND = 4
# What ends a kind: the reason under which it is counted, and on record but for the last two.
_ENDS = {
    "silent": {"cut.slow_headers"},
    "request-line": {"cut.slow_headers"},
    "headers": {"cut.slow_headers"},
    "handshake": {"cut.slow_headers"},
    "body": {"cut.slow_body"},
    "polling-post": {"cut.slow_body"},
    "polling-get": {"cut.pipelining", "cut.unread", "clients.dropped_slow"},
    "unread-page": {"cut.pipelining", "cut.unread"},
    "unread": {"cut.unread", "clients.dropped_slow"},
    "never-connected": {"clients.dropped_never_connected"},
    "left": {"clients.dropped_left"},
    "half-frame": {"clients.dropped_silent"},
    "fragments": {"clients.dropped_silent"},
}
_NOT_ON_RECORD = {"clients.dropped_silent"}

Counted = Callable[[str], int]


@pytest.fixture(scope="module")
def statsd() -> Iterator[tuple[int, Counted]]:
    """The port of a StatsD, and how often something has been counted so far."""
    counts: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((LOOPBACK, 0))
        listening.setblocking(False)

        def counted(name: str) -> int:
            with suppress(BlockingIOError):
                while True:
                    for line in listening.recv(65536).decode().splitlines():
                        if found := re.fullmatch(r"votemill\.node\.([\w.]+):(\d+)\|c", line):
                            counts[found[1]] += int(found[2])
            return counts[name]

        yield listening.getsockname()[1], counted


@pytest.fixture(scope="module")
def frugal_node(run_dir: Path, statsd: tuple[int, Counted]) -> Iterator[GuardedNode]:
    """A node with short deadlines and few places."""
    settings = {
        "METRICS__STATSD_HOST": LOOPBACK,
        "METRICS__STATSD_PORT": str(statsd[0]),
        "NODE__HEADER_DEADLINE_S": "1",
        "NODE__BODY_DEADLINE_S": "1",
        "NODE__UNREAD_DEADLINE_S": "1",
        "NODE__IDLE_CONNECTION_S": "4",
        "NODE__CONNECT_DEADLINE_S": "1",
        "NODE__PING_INTERVAL_S": "2",
        "NODE__PING_TIMEOUT_S": "3",
        "NODE__MAX_UNFINISHED_BYTES": "3000000",
        "LIMITS__OPEN_CONNECTIONS_PER_ADDRESS": "12",
        "LIMITS__OPEN_SESSIONS_PER_ADDRESS": "8",
        "LIMITS__ROOMS_PER_SESSION": "3",
    }
    with guarded_node(run_dir, "frugal-1", **settings) as node:
        yield node


@pytest.fixture
def counted(statsd: tuple[int, Counted]) -> Counted:
    return statsd[1]


@pytest.fixture
async def target(rest: Rest, frugal_node: GuardedNode) -> Target:
    parts = urlsplit(frugal_node.url)
    assert parts.hostname and parts.port
    return Target(parts.hostname, parts.port, (await rest.open_poll()).code, beat_s=0.2)


@asynccontextmanager
async def honest_voter(new_browser: NewBrowser, rest: Rest, node: GuardedNode, address: str) -> AsyncIterator[None]:
    """Somebody who votes all the time until this is left, and whom the slow ones cost nothing."""
    poll = await rest.open_poll()
    browser = await new_browser(url=node.url, headers={FORWARDED: address}).connect()
    joined = await browser.join(poll.code, "Honest")
    done = asyncio.Event()

    async def vote() -> list[object]:
        refused = []
        while not done.is_set():
            ack = await browser.vote(poll.code, joined, 1)
            # RabbitMQ may take its time on a busy machine; what counts here is that nobody is kept out by others.
            if not ack["success"] and ack["code"] != "broker_unavailable":
                refused.append(ack)
            await asyncio.sleep(1.1)
        return refused

    voting = asyncio.create_task(vote(), name="honest")
    try:
        yield
    finally:
        done.set()
        refused = await voting
    assert refused == []
    assert browser.connected


@pytest.mark.proves("FR-014", "FR-012", "FR-037")
async def test_every_kind_of_slow_client_is_ended_for_its_reason_and_an_honest_voter_goes_on(
    new_browser: NewBrowser,
    rest: Rest,
    frugal_node: GuardedNode,
    target: Target,
    address: str,
    counted: Counted,
    audited: Audited,
) -> None:
    assert _ENDS.keys() == KINDS.keys()
    sources = {kind: f"127.0.3.{number}" for number, kind in enumerate(KINDS, 1)}
    before = {reason: counted(reason) for reasons in _ENDS.values() for reason in reasons}
    async with honest_voter(new_browser, rest, frugal_node, address):
        # When slow clients of every kind come, each kind from an address of its own
        async def until_ended(kind: str) -> None:
            slow = Target(target.host, target.port, target.room, target.beat_s, sources[kind], questions=300)
            with pytest.raises((Ended, OSError)):
                async with asyncio.timeout(PATIENCE_S * 2):
                    await KINDS[kind](slow)

        await asyncio.gather(*(until_ended(kind) for kind in KINDS for _ in range(_OF_EACH_KIND)))
    # Then each kind is counted, and it is on record who did it
    for kind, reasons in _ENDS.items():

        def is_counted(reasons: set[str] = reasons) -> bool:
            return any(counted(reason) > before[reason] for reason in reasons)

        await eventually(is_counted, f"{kind} to be counted")
        if not reasons & _NOT_ON_RECORD:
            row = await audited("resource_limit", address=sources[kind])
            allowed = {re.sub(r"cut\.|clients\.dropped_", "", reason) for reason in reasons}
            # On a busy machine a client may be late with its very request, before it is slow in its own way.
            assert row["action"] in allowed | {"slow_headers"}
    assert counted("clients.dropped_silent") - before["clients.dropped_silent"] >= 2 * _OF_EACH_KIND


@pytest.mark.proves("FR-014")
async def test_half_sent_messages_of_many_sockets_hold_no_more_than_they_may(
    new_browser: NewBrowser, rest: Rest, frugal_node: GuardedNode, target: Target, address: str, counted: Counted
) -> None:
    before = counted("clients.dropped_unfinished")
    half = codec.client_frame(b"4" * 1_200_000)[:1_000_000]

    async def hold(number: int) -> None:
        source = Target(target.host, target.port, target.room, source=f"127.0.4.{number}")
        async with connection(source) as wire:
            await wire.upgrade()
            wire.write(codec.SOCKET_CONNECT_FRAME)
            await wire.trickle([half])

    async with honest_voter(new_browser, rest, frugal_node, address):
        # When six clients send most of a very large message each, twice as much as may be held
        holding = [asyncio.create_task(hold(number), name="hold") for number in range(1, 7)]
        await eventually(lambda: counted("clients.dropped_unfinished") - before >= 3, "some to be given up")
        for held in holding:
            held.cancel()
        await asyncio.gather(*holding, return_exceptions=True)


@pytest.mark.proves("FR-014")
async def test_a_compressed_frame_is_not_unfolded(target: Target) -> None:
    bomb = zlib.compressobj(wbits=-15)
    packed = bomb.compress(bytes(50_000_000)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    frame = codec.client_frame(packed)
    async with connection(target) as wire:
        # Given a WebSocket that offers compression
        await wire.upgrade("Sec-WebSocket-Extensions: permessage-deflate\r\n")
        # When a compressed frame comes all the same
        wire.write(codec.SOCKET_CONNECT_FRAME + bytes((frame[0] | 0x40,)) + frame[1:])
        # Then that is against the protocol
        with pytest.raises(Ended):
            while True:
                await wire.listen(PATIENCE_S)
    assert struct.pack(">H", aiohttp.WSCloseCode.PROTOCOL_ERROR) in wire.heard


@pytest.mark.proves("FR-014", "FR-012")
async def test_a_compressed_body_is_refused_unread(
    rest: Rest, frugal_node: GuardedNode, address: str, audited: Audited
) -> None:
    headers = {FORWARDED: address, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(50_000_000))
    answer = await rest.request("POST", "/api/polls", url=frugal_node.url, data=bomb, headers=headers)
    assert (answer.status, answer.body["code"]) == (415, "invalid_content_encoding")
    await audited("invalid_input", address=address, action="invalid_content_encoding")


@pytest.mark.proves("FR-014")
@pytest.mark.parametrize(
    "payload",
    [b"4" + b"[" * 1_000_000, b"4" + b'{"a":' * 100_000, b"d=" + b"&d=" * 300_000],
    ids=["lists", "objects", "packets"],  # pytest puts a test's name into the environment of what the test starts
)
async def test_nesting_without_end_ends_the_session_and_nothing_else(frugal_node: GuardedNode, payload: bytes) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(frugal_node.url + POLLING) as answer:
            sid = (await answer.text()).split('"')[3]
        async with http.post(f"{frugal_node.url}{POLLING}&sid={sid}", data=payload) as answer:
            assert answer.status == 400
    async with raw_socket(frugal_node.url) as sound:
        assert (await sound.refusal("submit-vote", "null"))["code"] == "invalid_payload"
    if not payload.startswith(b"d="):
        async with raw_socket(frugal_node.url) as socket:
            await socket.send(payload.decode())
            async with asyncio.timeout(PATIENCE_S):
                await socket.closed.wait()


@pytest.mark.proves("FR-014", "FR-012")
async def test_headers_beyond_their_limit_are_refused_and_on_record(target: Target, audited: Audited) -> None:
    source = Target(target.host, target.port, target.room, source="127.0.5.1")
    many = "".join(f"X-Many-{number}: {'x' * 1000}\r\n" for number in range(20))
    async with connection(source) as wire:
        wire.write(request("GET", "/", headers=many))
        with pytest.raises(Ended):
            while True:
                await wire.listen(PATIENCE_S)
    assert b" 431 " in wire.heard and b"headers_too_large" in wire.heard
    await audited("resource_limit", address="127.0.5.1", action="large_headers")


@pytest.mark.proves("FR-009", "FR-014", "FR-012")
async def test_one_address_can_hold_only_so_many_connections(
    new_browser: NewBrowser, rest: Rest, frugal_node: GuardedNode, target: Target, address: str, audited: Audited
) -> None:
    source = Target(target.host, target.port, target.room, source="127.0.5.2")

    async def hold() -> bytes:
        async with connection(source) as wire:
            with suppress(Ended):
                await wire.trickle([request("GET", "/api/health/live")])
            return wire.heard

    async with honest_voter(new_browser, rest, frugal_node, address):
        heard = await asyncio.gather(*(hold() for _ in range(20)))
    assert sum(b" 200 " in each for each in heard) == 12
    await audited("resource_limit", address="127.0.5.2", action="connections_of_address")


@pytest.mark.proves("FR-009", "FR-014", "FR-012")
async def test_one_address_can_hold_only_so_many_sessions(
    frugal_node: GuardedNode, address: str, new_address: Callable[[], str], audited: Audited
) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:

        async def open_session(origin: str) -> tuple[int, str | None]:
            async with http.get(frugal_node.url + POLLING, headers={FORWARDED: origin}) as answer:
                return answer.status, answer.headers.get("RateLimit-Policy")

        answers = [await open_session(address) for _ in range(10)]
        assert [status for status, _ in answers] == [200] * 8 + [429] * 2
        assert answers[-1][1] == '"open-sessions-per-address";q=8;w=10'
        assert (await open_session(new_address()))[0] == 200
        await audited("rate_limited", address=address, action="open-sessions-per-address")

        # And when they have ended there is a place again
        async def let_in() -> bool:
            return (await open_session(address))[0] == 200

        await eventually(let_in, "a place")


@pytest.mark.proves("FR-014")
async def test_one_session_can_be_in_only_so_many_rooms(
    new_browser: NewBrowser, rest: Rest, frugal_node: GuardedNode
) -> None:
    browser = await new_browser(url=frugal_node.url).connect()
    polls = [await rest.open_poll() for _ in range(5)]
    acks = [await browser.call("join", {"roomCode": poll.code, "viewer": True}) for poll in polls[:4]]
    acks.append(await browser.call("join-room", {"roomCode": polls[4].code, "nickname": "Ada"}))
    assert [ack["success"] for ack in acks] == [True] * 3 + [False] * 2
    assert {ack["code"] for ack in acks[3:]} == {"too_many_rooms"}
    # And those it is in it may join again
    assert (await browser.call("join-room", {"roomCode": polls[0].code, "nickname": "Ada"}))["success"]


@pytest.mark.proves("FR-009", "FR-014")
async def test_leaving_and_connecting_again_counts_like_a_connection(
    strict_node: GuardedNode, audited: Audited, address: str
) -> None:
    async with aiohttp.ClientSession(headers={FORWARDED: address}) as http:
        endpoint = strict_node.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        async with http.ws_connect(endpoint) as ws:
            await ws.receive_str()
            answers = []
            for _ in range(12):
                await ws.send_str("40")
                answers.append((await ws.receive_str())[:2])
                await ws.send_str("41")
    # One when it came, and one for each time that it came again
    assert answers == ["40"] * 10 + ["44"] * 2
    await audited("rate_limited", address=address, action="connections-per-address")
