"""From polling to WebSocket: nothing is lost, nothing overtakes, and a failed attempt leaves the session as it was."""

import asyncio
import contextlib

import aiohttp
import pytest
import socketio

from tests.socket_tier.transport.clients import NOOP, Poller, answers, closed, on_both, open_socket, quick_pings
from tests.socket_tier.waiting import eventually


async def probed(http, running, client):
    """A WebSocket whose probe the server has answered."""
    ws = await open_socket(http, running.url, client.sid)
    await ws.send_str("2probe")
    assert await ws.receive_str() == "3probe"
    return ws


async def is_refused(http, running, sid):
    """Whether no WebSocket is given for a session."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await open_socket(http, running.url, sid)
    return refusal.value.status == 400


@on_both
async def test_the_way_from_polling_to_websocket(http, running):
    client = await Poller(http, running.url).open()
    hanging = client.hang()
    await asyncio.sleep(0.1)
    # When a WebSocket is probed, then the poll that hangs is ended, and so is each one after it
    ws = await probed(http, running, client)
    assert await hanging == [NOOP]
    assert await client.poll() == [NOOP]
    # When events come and go meanwhile
    for number in range(3):
        await running.server.emit("tick", number)
    assert await client.send('420["say","by polling"]') == 200
    # Then they wait for the client's word, and come ahead of what follows it, in order
    received = await answers(ws, "5", '421["say","by websocket"]')
    assert received[:3] == ['42["tick",0]', '42["tick",1]', '42["tick",2]']
    assert received[3:] == ['430["by polling"]', '431["by websocket"]']
    assert running.server.eio.transport(client.sid) == "websocket"
    # And the session polls no more
    assert await client.poll() == ["400"]
    assert await client.send('42["say",1]') == 400
    assert await answers(ws) == []


@on_both
@pytest.mark.parametrize("probe", ["2", "2prob", "3probe", "42[]", b"2probe"])
async def test_a_probe_that_is_none_ends_the_attempt_and_not_the_session(http, running, probe):
    client = await Poller(http, running.url).open()
    ws = await open_socket(http, running.url, client.sid)
    await (ws.send_bytes(probe) if isinstance(probe, bytes) else ws.send_str(probe))
    assert await closed(ws) == 1000
    await goes_on_and_upgrades(http, running, client)


@pytest.mark.parametrize("nonsense", ["hello", "", "9"])
@pytest.mark.parametrize("before", [[], ["2probe"]])
async def test_nonsense_ends_the_attempt_and_not_the_session(http, running, before, nonsense):
    """With stock the session is in the middle of an upgrade for ever, and each of its polls gets a NOOP at once."""
    client = await Poller(http, running.url).open()
    ws = await open_socket(http, running.url, client.sid)
    for packet in (*before, nonsense):
        await ws.send_str(packet)
    assert await closed(ws) == 1000
    await goes_on_and_upgrades(http, running, client)


@on_both
@pytest.mark.parametrize("end", ["6", "2probe", None], ids=["another packet", "a second probe", "hung up"])
async def test_an_attempt_that_is_given_up_leaves_the_session_as_it_was(http, running, end):
    client = await Poller(http, running.url).open()
    ws = await probed(http, running, client)
    if end is None:
        await ws.close()
    else:
        await ws.send_str(end)
    assert await closed(ws) == 1000
    await eventually(lambda: not running.sockets()[0].upgrading, "the end of the attempt")
    await goes_on_and_upgrades(http, running, client)


async def goes_on_and_upgrades(http, running, client):
    """A session polls as before, and its next attempt succeeds."""
    assert await client.send('420["say","still polling"]') == 200
    assert '430["still polling"]' in await client.poll()
    ws = await probed(http, running, client)
    assert await answers(ws, "5", '421["say","now faster"]') == ['431["now faster"]']


@pytest.mark.proves("FR-037")
async def test_a_websocket_through_which_nothing_comes_leaves_the_polls_alone(http, running):
    """With stock each poll gets a NOOP at once, for as long as the WebSocket stays open."""
    client = await Poller(http, running.url).open()
    hanging = client.hang()
    await open_socket(http, running.url, client.sid)
    # When events come while the server waits for a probe, then polls bring them, and a poll without any hangs
    await running.server.emit("tick", 1)
    assert await hanging == ['42["tick",1]']
    hanging = client.hang()
    assert await client.send('420["say","still polling"]') == 200
    assert await hanging == ['430["still polling"]']


@quick_pings
@pytest.mark.proves("FR-037")
async def test_an_attempt_that_never_ends_is_ended(http, running):
    """Stock waits for ever, and meanwhile gives the polls nothing but NOOPs."""
    client = await Poller(http, running.url).open()
    ws = await probed(http, running, client)
    assert await closed(ws) == 1000
    await client.send("3", '420["say","still polling"]')
    assert '430["still polling"]' in await client.poll()


@on_both
async def test_a_session_on_websocket_gets_no_second_one(http, running):
    # Given a session that began on WebSocket, and one that has upgraded to it
    first = await open_socket(http, running.url)
    (socket,) = running.sockets()
    await first.send_str("40")
    client = await Poller(http, running.url).open()
    second = await probed(http, running, client)
    await second.send_str("5")
    await answers(second)
    # When another WebSocket is opened for either, then it is refused, and the session goes on
    for ws, sid in ((first, socket.sid), (second, client.sid)):
        assert await is_refused(http, running, sid)
        assert await answers(ws, '420["say","still here"]')


async def test_only_the_first_of_two_attempts_at_a_time_becomes_the_sessions(http, running):
    """With stock both do: each answer goes over the last one, and whichever closes first ends the session."""
    client = await Poller(http, running.url).open()
    first = await probed(http, running, client)
    second = await open_socket(http, running.url, client.sid)
    assert await closed(second) == 1000
    assert await answers(first, "5", '420["say","alone"]') == ['430["alone"]']


@on_both
async def test_an_upgrade_packet_after_the_upgrade_is_harmless(http, running):
    client = await Poller(http, running.url).open()
    ws = await probed(http, running, client)
    assert await answers(ws, "5", "5", '420["say",1]') == ["430[1]"]


@on_both
async def test_an_upgraded_session_ends_with_its_websocket(http, running):
    client = await Poller(http, running.url).open()
    ws = await probed(http, running, client)
    await answers(ws, "5")
    await ws.close()
    await eventually(lambda: not running.sockets(), "the socket to be gone")
    assert running.seen[-1] == ("disconnect", "transport close")


@on_both
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
    with contextlib.suppress(asyncio.CancelledError):
        await client.disconnect()
    await eventually(lambda: not running.sockets(), "the socket to be gone")
