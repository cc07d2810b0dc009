"""Engine.IO against the rules: it ends the session that does it, or nothing at all, and harms nobody else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.security.conftest import GuardedNode
from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.transport.clients import NOOP, Poller, closed, open_socket
from tests.socket_tier.waiting import eventually

FRAME = 1_300_000  # node.max_packet_bytes


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(autouse=True)
async def somebody_else(node: GuardedNode, rest: Rest) -> AsyncIterator[RawSocket]:
    """Takes part in a poll at the same node before, and votes afterwards; the log has no exception in the end."""
    poll: Poll = await rest.open_poll()
    async with raw_socket(node.url) as socket:
        joined = await socket.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
        yield socket
        vote = {"roomCode": poll.code, "participantId": joined["participantId"], "optionIndex": 1}
        assert (await socket.call("submit-vote", vote))["success"]
    assert "Traceback" not in node.log.read_text()


@pytest.mark.proves("FR-014")
@pytest.mark.parametrize("packet", ["7", "9", "x", "", "b!", "4" + "[" * 100_000, '4{"a":' * 50_000, "\u0664"])
async def test_what_is_no_packet_ends_the_session_or_means_nothing(node: GuardedNode, packet: str) -> None:
    async with raw_socket(node.url) as socket:
        await socket.send(packet)
        number = socket.numbered()
        with contextlib.suppress(ConnectionError):  # hung up on by now
            await socket.send(f'42{number}["join","ZZZZZZ"]')
        # The end, or the next event is answered and nothing else came before it
        await eventually(lambda: socket.closed.is_set() or f"43{number}[" in socket.packets[-1], "the end or an answer")
        assert all(packet.startswith(("0", "40", f"43{number}[")) for packet in socket.packets)


@pytest.mark.proves("FR-014")
async def test_a_session_upgrades_once_and_probes_for_ever_become_no_session(
    node: GuardedNode, http: aiohttp.ClientSession
) -> None:
    # Given a session that polls, and somebody who wants twenty WebSockets for it and probes on each without an end
    client = await Poller(http, node.url).open()
    async with AsyncExitStack() as opened:
        attempts = [await open_socket(http, node.url, client.sid) for _ in range(20)]
        for ws in attempts:
            opened.push_async_callback(ws.close)
            for _ in range(50):
                await ws.send_str("2probe")
        # Then none becomes the session's, and each is hung up on
        await asyncio.gather(*(closed(ws) for ws in attempts))
    # And the session goes on by polling, and may still upgrade, once
    assert await client.send('421["join","ZZZZZZ"]') == 200
    answers = await client.poll()
    while not any(packet.startswith("431[") for packet in answers):
        answers = await client.poll()
    ws = await open_socket(http, node.url, client.sid)
    await ws.send_str("2probe")
    assert await ws.receive_str() == "3probe"
    assert await client.poll() == [NOOP]
    await ws.send_str("5")
    await ws.send_str('423["join","ZZZZZZ"]')
    assert (await ws.receive_str()).startswith("433[")
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await open_socket(http, node.url, client.sid)
    for packet in ("5", "5", "2probe"):
        await ws.send_str(packet)
    await ws.send_str('422["join","ZZZZZZ"]')
    async with asyncio.timeout(15):
        while not (await ws.receive_str()).startswith("432["):
            pass
    await ws.close()


@pytest.mark.proves("FR-014")
@pytest.mark.parametrize(
    "body",
    [
        "4" * (FRAME + 1),
        "\x1e".join(["2"] * 1_001),
        "\x1e" * 100_000,
        "4" + "[" * 100_000,
        "bAAAAA",
        "d=" + "\x1e" * 2_000,
        "\ud83d",
    ],
    ids=lambda body: ascii(body)[:12],
)
async def test_a_post_bomb_ends_its_own_session(node: GuardedNode, http: aiohttp.ClientSession, body: str) -> None:
    client = await Poller(http, node.url).open()
    url = f"{node.url}/socket.io/?EIO=4&transport=polling&sid={client.sid}"
    async with http.post(url, data=io.BytesIO(body.encode(errors="surrogatepass"))) as answer:
        assert answer.status == 400
    assert await client.poll() in (["1"], ["400"])
    async with http.post(url, data="2") as answer:
        assert answer.status == 400


@pytest.mark.proves("FR-014")
async def test_what_comes_for_a_session_that_has_ended_is_refused(
    node: GuardedNode, http: aiohttp.ClientSession
) -> None:
    # Ended by the client, and not yet forgotten by the server
    client = await Poller(http, node.url).open()
    assert await client.send("1") == 200
    assert [await client.send('42["join","ZZZZZZ"]'), await client.send("3")] == [400, 400]
    assert await client.poll() == ["400"]


@pytest.mark.proves("FR-014")
async def test_a_payload_full_of_attachments_is_passed_over(node: GuardedNode, http: aiohttp.ClientSession) -> None:
    client = await Poller(http, node.url).open()
    attachment = "b" + base64.b64encode(b"\x00" * 1_000).decode()
    assert await client.send('451-1["join",{"_placeholder":true,"num":0}]', *[attachment] * 700) == 200
    (answer,) = await client.poll()
    assert '"invalid_payload"' in answer


@pytest.mark.proves("FR-014")
async def test_many_posts_at_a_time_to_one_session_are_all_answered(
    node: GuardedNode, http: aiohttp.ClientSession
) -> None:
    client = await Poller(http, node.url).open()
    bombs = [client.send(*['42["no-such-event"]'] * 900) for _ in range(20)]
    assert set(await asyncio.gather(*bombs)) <= {200, 400}
