"""What a WebSocket client may rely on: order, answers, close codes, limits; and what bounds one that doesn't read."""

import asyncio

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.writer import WebSocketWriter

from socket_tier.transport.frames import text_frame
from tests.socket_tier.transport.clients import answers, closed, connect, on_both, open_socket, quick_pings
from tests.socket_tier.transport.conftest import MOST_BYTES
from tests.socket_tier.waiting import eventually


def writer_of(ws) -> WebSocketWriter:
    """aiohttp's own, for frames that its API has no call for."""
    return ws._writer


@on_both
async def test_events_are_handled_and_acked_in_the_order_in_which_they_were_sent(http, running):
    ws = await connect(http, running.url)
    packets = [f'42{number}["say","{text}"]' for number, text in enumerate(["slowly", "b", "c"])]
    assert await answers(ws, *packets) == ['430["slowly"]', '431["b"]', '432["c"]']
    assert running.seen[:3] == [("say", "slowly"), ("say", "b"), ("say", "c")]


@on_both
async def test_events_of_the_server_come_in_the_order_in_which_they_were_sent(http, running):
    ws = await connect(http, running.url)
    for number in range(100):
        await running.server.emit("tick", number)
    assert await answers(ws) == [f'42["tick",{number}]' for number in range(100)]


@on_both
async def test_binary_travels_in_frames_of_its_own_behind_its_event(http, running):
    ws = await connect(http, running.url)
    echo = await answers(ws, '451-7["say",{"_placeholder":true,"num":0}]', b"\x00\xff")
    assert echo == ['461-7[{"_placeholder":true,"num":0}]', b"\x00\xff"]
    assert running.seen[0] == ("say", b"\x00\xff")
    await running.server.emit("photo", {"of": "Ada", "is": b"\x01\x02"})
    await running.server.emit("tick", 1)
    photo = '451-["photo",{"of":"Ada","is":{"_placeholder":true,"num":0}}]'
    assert await answers(ws) == [photo, b"\x01\x02", '42["tick",1]']


@on_both
async def test_a_message_may_come_in_fragments_with_a_ping_between_them(http, running):
    ws = await connect(http, running.url)
    transport = ws._conn.transport
    head, middle, tail = b'420["say",', b'"in ', b'pieces"]'
    # Masked with zeros: frames of a client are masked, and these stay readable.
    for opcode, part in ((0x01, head), (0x89, b"ping"), (0x00, middle), (0x80, tail)):
        transport.write(bytes((opcode, 0x80 | len(part))) + bytes(4) + part)
    assert await answers(ws) == ['430["in pieces"]']


async def test_the_lane_never_overtakes_an_event_that_is_being_handled(http, running):
    handled = []

    def lane(_socket, data):
        if b"quick" in data:
            handled.append(data)
            return True
        return False

    running.engine.lane = lane
    ws = await connect(http, running.url)
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
    ws = await connect(http, running.url)
    assert await answers(ws, '420["say","still answered"]') == ['430["still answered"]']
    assert "lane_failed" in caplog.text


async def test_what_is_pushed_soon_goes_ahead_of_the_next_frame(http, running):
    ws = await connect(http, running.url)
    (socket,) = running.sockets()
    socket.push_soon(text_frame(b"4first"))
    socket.push(text_frame(b"4second"))
    assert [await ws.receive_str(), await ws.receive_str()] == ["4first", "4second"]


async def test_what_is_pushed_soon_goes_by_itself_in_the_end(http, running):
    ws = await connect(http, running.url)
    (socket,) = running.sockets()
    socket.push_soon(text_frame(b"4alone"))
    assert await asyncio.wait_for(ws.receive_str(), 15) == "4alone"


@on_both
@quick_pings
async def test_pings_are_sent_and_a_client_that_answers_stays(http, running):
    ws = await connect(http, running.url)
    for _ in range(2):
        assert await asyncio.wait_for(ws.receive_str(), 15) == "2"
        await ws.send_str("3")
    assert len(running.sockets()) == 1


async def test_a_clock_that_is_set_ends_no_session(http, running, monkeypatch):
    """Stock takes everybody for gone who has not answered the latest ping by then."""
    ws = await connect(http, running.url)
    (socket,) = running.sockets()
    socket.next_ping_at = socket.look_at = 0.0
    assert await asyncio.wait_for(ws.receive_str(), 15) == "2"
    monkeypatch.setattr("time.time", lambda: 9e9)
    await running.engine._look_after(socket)
    monkeypatch.undo()
    assert await answers(ws, "3", '420["say","still here"]') == ['430["still here"]']


@on_both
@quick_pings
@pytest.mark.proves("FR-037")
async def test_a_client_that_never_answers_pings_is_closed(http, running, transport):
    ws = await connect(http, running.url)
    async with asyncio.timeout(15):
        packets = [message.data async for message in ws]
    # Ours says goodbye, so that a client which only lost its pongs reconnects at once; stock forgets to.
    assert packets == (["2", "1"] if transport == "direct" else ["2"])
    assert ws.close_code == 1000
    await eventually(lambda: running.seen, "the handler to be told")
    if transport == "direct":
        # With stock two timers run against each other, and the transport's may be the first.
        assert running.seen == [("disconnect", "ping timeout")]
    await eventually(lambda: not running.sockets(), "the socket to be gone")


@on_both
@pytest.mark.proves("FR-014")
async def test_a_message_beyond_the_limit_closes_with_1009(http, running):
    ws = await connect(http, running.url)
    await ws.send_str("4" + "x" * MOST_BYTES)
    assert await closed(ws) == 1009
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    assert running.seen == [("disconnect", "transport close")]


@on_both
@pytest.mark.parametrize("packet", ["", "9", "hello", "💥", "bA"])
async def test_what_is_no_engine_packet_ends_the_session(http, running, packet, transport):
    ws = await connect(http, running.url)
    await ws.send_str(packet)
    assert await closed(ws) == (1007 if transport == "direct" else 1000)
    await eventually(lambda: running.seen == [("disconnect", "transport close")], "the handler to be told")
    await eventually(lambda: not running.sockets(), "the socket to be gone")


@on_both
async def test_text_that_is_not_utf_8_closes_with_1007(http, running):
    ws = await connect(http, running.url)
    await writer_of(ws).send_frame(b'42["say","\xff"]', WSMsgType.TEXT)
    assert await closed(ws) == 1007
    await eventually(lambda: running.seen == [("disconnect", "transport close")], "the handler to be told")


@on_both
@pytest.mark.parametrize(
    "packet", ["4", "4x", "42{", '4{"a":1}', "4[1]", "6", "0", "2", "2probe", "3probe", b"\x00\x01"]
)
async def test_a_packet_that_says_nothing_is_passed_over(http, running, packet):
    ws = await connect(http, running.url)
    assert await answers(ws, packet, '420["say","still here"]') == ['430["still here"]']


@on_both
async def test_a_client_that_says_goodbye_is_gone(http, running, transport):
    ws = await connect(http, running.url)
    await ws.send_str("1")
    if transport == "direct":
        assert await closed(ws) == 1000  # stock keeps the WebSocket until the ping time-out
    await eventually(lambda: running.seen == [("disconnect", "client disconnect")], "the handler to be told")
    await ws.close()
    await eventually(lambda: not running.sockets(), "the socket to be gone")


@on_both
@pytest.mark.parametrize("how", ["closes", "closes in its own words", "is cut off"])
async def test_a_client_that_leaves_takes_its_rooms_with_it(http, running, how):
    ws = await connect(http, running.url)
    if how == "is cut off":
        ws._conn.transport.abort()
    else:
        await ws.close(code=1000 if how == "closes" else 4001)
        assert ws.close_code == 1000
    await eventually(lambda: running.seen == [("disconnect", "transport close")], "the handler to be told")
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    assert running.server.manager.rooms == {}
    assert running.server.environ == {}


@on_both
async def test_a_session_that_the_server_ends_is_told(http, running, transport):
    ws = await connect(http, running.url)
    (socket,) = running.sockets()
    await running.engine.disconnect(socket.sid)
    assert await asyncio.wait_for(ws.receive_str(), 15) == "1"
    if transport == "direct":
        assert await closed(ws) == 1000  # stock leaves the WebSocket to the client
    assert running.seen == [("disconnect", "server disconnect")]


async def test_going_away_closes_with_service_restart_behind_what_is_written(http, running):
    ws = await connect(http, running.url)
    (socket,) = running.sockets()
    socket.push(text_frame(b"4last words"))
    socket.push_soon(text_frame(b"4and some that waited"))
    socket.go_away()
    assert [await ws.receive_str(), await ws.receive_str()] == ["4last words", "4and some that waited"]
    assert await closed(ws) == 1012


@pytest.mark.proves("FR-014")
async def test_a_client_that_does_not_read_is_owed_results_and_then_dropped(http, running):
    silent = await connect(http, running.url)  # and never reads again
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


async def test_a_session_without_a_connect_may_still_be_used_within_its_deadline(http, running):
    ws = await open_socket(http, running.url)
    assert await answers(ws, "40") != []
