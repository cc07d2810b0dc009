"""What a client may rely on: order, answers, close codes, limits; and what bounds a client that doesn't read."""

import asyncio
import json

import pytest
import socketio
from aiohttp import WSMsgType
from engineio import packet

from socket_tier.transport.frames import text_frame
from tests.socket_tier.transport.conftest import HANDSHAKE
from tests.socket_tier.waiting import eventually


async def connected(http, running):
    """A raw WebSocket that has finished the Socket.IO CONNECT."""
    ws = await http.ws_connect(running.url + HANDSHAKE)
    opening = await ws.receive_str()
    assert opening.startswith("0{")
    await ws.send_str("40")
    assert (await ws.receive_str()).startswith("40{")
    return ws


async def test_the_opening_packet_names_the_session_and_its_limits(http, running):
    ws = await http.ws_connect(running.url + HANDSHAKE)
    opening = json.loads((await ws.receive_str())[1:])
    assert opening["sid"] in running.engine.sockets
    assert (opening["pingInterval"], opening["pingTimeout"], opening["maxPayload"]) == (1000, 1000, 5000)


async def test_compression_is_never_agreed_on(http, running):
    ws = await http.ws_connect(running.url + HANDSHAKE, compress=15)
    assert ws.compress == 0


async def test_events_are_handled_and_acked_in_the_order_in_which_they_were_sent(http, running):
    ws = await connected(http, running)
    for number, text in enumerate(["slowly", "b", "c"]):
        await ws.send_str(f'42{number}["say","{text}"]')
    acks = [await ws.receive_str() for _ in range(3)]
    assert acks == ['430["slowly"]', '431["b"]', '432["c"]']
    assert running.seen == [("say", "slowly"), ("say", "b"), ("say", "c")]


async def test_the_lane_never_overtakes_an_event_that_is_being_handled(http, running):
    handled = []

    def lane(_socket, data):
        if b"quick" in data:
            handled.append(data)
            return True
        return False

    running.engine.lane = lane
    ws = await connected(http, running)
    await ws.send_str('42["quick"]')
    await ws.send_str('420["say","slowly"]')
    await ws.send_str('421["quick"]')
    await ws.send_str('422["say","after"]')
    assert await ws.receive_str() == '430["slowly"]'
    # The lane's second message waited behind the slow one, so it went the ordinary way and nobody handles it there.
    assert await ws.receive_str() == '432["after"]'
    assert handled == [b'42["quick"]']


async def test_a_lane_that_fails_leaves_the_event_to_the_ordinary_way(http, running, caplog):
    def lane(_socket, _data):
        raise RuntimeError("broken lane")

    running.engine.lane = lane
    ws = await connected(http, running)
    await ws.send_str('420["say","still answered"]')
    assert await ws.receive_str() == '430["still answered"]'
    assert "lane_failed" in caplog.text


async def test_what_is_pushed_soon_goes_ahead_of_the_next_frame(http, running):
    ws = await connected(http, running)
    (socket,) = running.sockets()
    socket.push_soon(text_frame(b"4first"))
    socket.push(text_frame(b"4second"))
    assert [await ws.receive_str(), await ws.receive_str()] == ["4first", "4second"]


async def test_what_is_pushed_soon_goes_by_itself_in_the_end(http, running):
    ws = await connected(http, running)
    (socket,) = running.sockets()
    socket.push_soon(text_frame(b"4alone"))
    assert await asyncio.wait_for(ws.receive_str(), 15) == "4alone"


async def test_pings_are_sent_and_a_client_that_answers_stays(http, running):
    ws = await connected(http, running)
    for _ in range(2):
        assert await asyncio.wait_for(ws.receive_str(), 15) == "2"
        await ws.send_str("3")
    assert len(running.sockets()) == 1


@pytest.mark.proves("FR-037")
async def test_a_client_that_never_answers_pings_is_closed(http, running):
    ws = await connected(http, running)
    async with asyncio.timeout(15):
        packets = [message.data async for message in ws]
    assert packets == ["2", "1"]
    assert ws.close_code == 1000
    assert running.seen == [("disconnect", "ping timeout")]
    await eventually(lambda: not running.sockets(), "the socket to be gone")


@pytest.mark.proves("FR-014")
async def test_a_session_that_never_connects_is_closed(http, running):
    running.engine.connect_deadline_s = 0.1
    ws = await http.ws_connect(running.url + HANDSHAKE)
    await eventually(lambda: running.dropped == ["never_connected"], "the idle session to be dropped")
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    await ws.close()


@pytest.mark.proves("FR-014")
async def test_a_message_beyond_the_limit_closes_with_1009(http, running):
    ws = await connected(http, running)
    await ws.send_str("x" * 6000)
    message = await asyncio.wait_for(ws.receive(), 15)
    assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
    assert ws.close_code == 1009
    await eventually(lambda: not running.sockets(), "the socket to be gone")


async def test_binary_and_broken_messages_harm_nobody(http, running):
    ws = await connected(http, running)
    await ws.send_bytes(b"\x00\x01")
    for broken in ("", "9", "4", "4x", "42{", "hello"):
        await ws.send_str(broken)
    await ws.send_str('420["say","still here"]')
    async with asyncio.timeout(15):
        while (await ws.receive_str()) != '430["still here"]':
            pass


async def test_going_away_closes_with_service_restart_behind_what_is_written(http, running):
    ws = await connected(http, running)
    (socket,) = running.sockets()
    socket.push(text_frame(b"4last words"))
    socket.go_away()
    assert await ws.receive_str() == "4last words"
    assert (await ws.receive()).type is WSMsgType.CLOSE
    assert ws.close_code == 1012


@pytest.mark.proves("FR-014")
async def test_a_client_that_does_not_read_is_owed_results_and_then_dropped(http, running):
    silent = await connected(http, running)  # and never reads again
    (socket,) = running.sockets()
    running.engine.soft_cap_bytes, running.engine.hard_cap_bytes = 10_000, 1_000_000
    frame = text_frame(b"4" + b"x" * 50_000)
    async with asyncio.timeout(30):
        while socket.has_caught_up("ROOM"):
            socket.push(frame)
            await asyncio.sleep(0)
    assert socket.owed == {"ROOM"}
    await eventually(lambda: (socket, "ROOM") in running.owed, "the owed results to be offered again")
    async with asyncio.timeout(30):
        while not running.dropped:
            socket.push(frame)
            await asyncio.sleep(0)
    assert running.dropped == ["slow"]
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    await silent.close()


async def test_a_polling_client_upgrades_without_losing_or_reordering_anything(running):
    client = socketio.AsyncClient(reconnection=False)
    received = []
    client.on("tick", received.append)
    await client.connect(running.url, transports=["polling", "websocket"])
    for number in range(50):
        await running.server.emit("tick", number)
    await eventually(lambda: len(received) == 50, "all events")
    assert received == list(range(50))
    assert client.transport() == "websocket"
    (socket,) = running.sockets()
    assert socket.wire is not None
    await client.disconnect()
    await eventually(lambda: not running.sockets(), "the socket to be gone")


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


async def test_a_client_that_leaves_takes_its_rooms_with_it(http, running):
    ws = await connected(http, running)
    await ws.close()
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    assert running.seen == [("disconnect", "transport close")]
    assert running.server.manager.rooms == {}
