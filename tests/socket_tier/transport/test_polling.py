"""Clients that poll: payloads of packets each way, and what ends a poll."""

import asyncio
import base64
import contextlib

import pytest
import socketio
from engineio import packet, payload

from tests.socket_tier.transport.clients import NOOP, Poller, on_both, quick_pings
from tests.socket_tier.transport.conftest import MOST_BYTES
from tests.socket_tier.waiting import eventually


@on_both
async def test_packets_of_one_payload_are_handled_and_answered_in_their_order(http, running):
    client = await Poller(http, running.url).open()
    assert await client.send(*(f'42{number}["say",{number}]' for number in range(16))) == 200
    assert running.seen == [("say", number) for number in range(16)]
    assert await client.poll() == [f"43{number}[{number}]" for number in range(16)]


@on_both
async def test_what_is_sent_between_two_polls_comes_with_the_next_in_order(http, running):
    client = await Poller(http, running.url).open()
    for number in range(3):
        await running.server.emit("tick", number)
    assert await client.poll() == ['42["tick",0]', '42["tick",1]', '42["tick",2]']


@on_both
async def test_a_body_that_comes_in_pieces_is_one_payload(http, running):
    client = await Poller(http, running.url).open()
    # Given a payload that arrives in two parts, as over a slow network. engine.io alone would read the first only
    body = b'420["say","' + b"x" * 2000 + b'"]'
    async with raw_post(running, client, len(body)) as (reader, writer):
        writer.write(body[:1000])
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(body[1000:])
        # When the rest is there, then it is one event
        assert b"200 OK" in await reader.readline()
    assert await client.poll() == ['430["' + "x" * 2000 + '"]']


@pytest.mark.proves("FR-037")
@pytest.mark.parametrize("client_goes", [True, False])
async def test_a_body_that_never_comes_whole_ends_the_session(http, running, client_goes):
    # Stock would wait for it as long as the connection lives.
    running.engine.bodies.deadline_s = 30 if client_goes else 0.1
    client = await Poller(http, running.url).open()
    async with raw_post(running, client, 100) as (_, writer):
        writer.write(b'420["say","half')
        await writer.drain()
        if not client_goes:
            await eventually(lambda: not running.sockets(), "the session to be over")
    await eventually(lambda: running.seen == [("disconnect", "server disconnect")], "the end")


async def test_a_session_that_ends_while_a_body_comes_is_no_error(http, running):
    running.engine.bodies.deadline_s = 0.3
    client = await Poller(http, running.url).open()
    async with raw_post(running, client, 100) as (reader, writer):
        writer.write(b'420["say","half')
        await writer.drain()
        assert await client.send("1") == 200
        assert b"200 OK" in await reader.readline()


@pytest.mark.proves("FR-008")
@pytest.mark.parametrize("nonsense", ["hello", "9", "42[]\x1e", '420["say",1]\x1ehello', "bA", "d="])
async def test_what_is_no_payload_ends_the_session_and_says_so(http, running, nonsense):
    """As the Engine.IO protocol has it. Stock answers "OK", and the packets' sender waits for ever."""
    client = await Poller(http, running.url).open()
    assert await client.send(nonsense) == 400
    assert await client.poll() == ["400"]
    assert running.seen == [("disconnect", "server disconnect")]


@on_both
async def test_a_payload_of_nothing_is_harmless(http, running):
    client = await Poller(http, running.url).open()
    assert await client.send("") == 200
    assert await client.send('420["say",1]') == 200


async def test_more_packets_than_a_payload_may_have_are_refused(http, running, monkeypatch):
    """Stock answers "OK" and handles none of them."""
    monkeypatch.setattr(payload.Payload, "max_decode_packets", 16)
    client = await Poller(http, running.url).open()
    assert await client.send(*['42["say",1]'] * 17) == 400
    assert running.seen == [("disconnect", "server disconnect")]


@on_both
@pytest.mark.proves("FR-014")
async def test_a_payload_beyond_the_limit_ends_the_session(http, running):
    client = await Poller(http, running.url).open()
    hanging = client.hang()
    await asyncio.sleep(0.1)
    assert await client.send("4" + "x" * MOST_BYTES) == 400
    assert await hanging == ["1"]
    assert await client.poll() == ["400"]


@on_both
async def test_binary_travels_as_base64(http, running):
    client = await Poller(http, running.url).open()
    head = '451-7["say",{"_placeholder":true,"num":0}]'
    assert await client.send(head, "b" + base64.b64encode(b"\x00\xff").decode()) == 200
    assert running.seen == [("say", b"\x00\xff")]
    assert await client.poll() == ['461-7[{"_placeholder":true,"num":0}]', "bAP8="]


@on_both
async def test_two_polls_at_a_time_lose_and_double_nothing(http, running):
    client = await Poller(http, running.url).open()
    polls = [client.hang(), client.hang()]
    await asyncio.sleep(0.1)
    await running.server.emit("tick", 1)
    await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
    await running.server.emit("tick", 2)
    first, second = await asyncio.gather(*polls)
    assert sorted(first + second) == ['42["tick",1]', '42["tick",2]']


@on_both
async def test_a_client_that_says_goodbye_is_gone_at_once(http, running, transport):
    client = await Poller(http, running.url).open()
    hanging = client.hang()
    await asyncio.sleep(0.1)
    assert await client.send("1") == 200
    assert running.seen == [("disconnect", "client disconnect")]
    if transport == "direct":
        # As the protocol has it: the poll ends too. Stock lets it hang until the ping time-out.
        assert await hanging == [NOOP]
    hanging.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hanging
    assert await client.poll() == ["400"]
    assert await client.send('42["say",1]') == 400


@pytest.mark.proves("FR-037")
async def test_a_client_that_hangs_up_on_its_poll_is_gone(http, running):
    """Stock keeps it until the ping time-out, and gives its next packets to the poll that nobody reads."""
    client = await Poller(http, running.url).open()
    for _ in range(2):  # what a poll has brought is no hanging up
        await running.server.emit("tick")
        assert await client.poll() == ['42["tick"]']
    hanging = client.hang()
    await asyncio.sleep(0.1)
    assert not running.seen
    hanging.cancel()
    await eventually(lambda: running.seen == [("disconnect", "transport close")], "the end of the session", within_s=10)
    await eventually(lambda: not running.sockets(), "the socket to be gone")


@on_both
async def test_a_session_that_the_server_ends_ends_its_poll(http, running):
    client = await Poller(http, running.url).open()
    hanging = client.hang()
    await asyncio.sleep(0.1)
    await running.engine.disconnect(client.sid)
    assert await hanging == ["1"]
    assert running.seen == [("disconnect", "server disconnect")]
    assert await client.poll() == ["400"]


@on_both
@quick_pings
async def test_pings_come_with_polls_and_a_client_that_answers_stays(http, running):
    client = await Poller(http, running.url).open()
    for _ in range(2):
        assert await client.poll() == ["2"]
        assert await client.send("3") == 200
    assert len(running.sockets()) == 1


@on_both
@quick_pings
@pytest.mark.proves("FR-037")
async def test_a_client_that_never_answers_pings_is_closed(http, running):
    client = await Poller(http, running.url).open()
    assert await client.poll() == ["2"]
    await eventually(lambda: running.seen == [("disconnect", "ping timeout")], "the ping time-out")
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    assert await client.poll() == ["400"]


async def test_a_client_that_only_polls_is_served_and_bounded(running):
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(running.url, transports=["polling"])
    assert await client.call("say", "by polling") == "by polling"
    (socket,) = running.sockets()
    assert socket.wire is None
    for _ in range(2000):
        socket.hold(packet.Packet(packet.MESSAGE, '2["tick"]'))
    assert running.dropped == ["slow"]
    await client.disconnect()


@contextlib.asynccontextmanager
async def raw_post(running, client, size):
    """A POST whose body is yet to come."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = f"/socket.io/?EIO=4&transport=polling&sid={client.sid}"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()
