"""Socket.IO's own packets: namespaces, CONNECT, acks. One behaviour on both transports."""

import pytest

from tests.socket_tier.transport.clients import answers, connect, on_both, open_socket

LONGEST_ACK_ID = "9" * 100


async def connected_with(ws, packet: str) -> str:
    """The answer to a CONNECT."""
    await ws.send_str(packet)
    answer: str = await ws.receive_str()
    return answer


@on_both
@pytest.mark.parametrize(
    ("sent", "received", "seen"),
    [
        (['42["say",1]'], [], [("say", 1)]),
        (['420["say",1]'], ["430[1]"], [("say", 1)]),
        (['427["say",{"a":[null,true,"e"]}]'], ['437[{"a":[null,true,"e"]}]'], [("say", {"a": [None, True, "e"]})]),
        ([f'42{LONGEST_ACK_ID}["say",1]'], [f"43{LONGEST_ACK_ID}[1]"], [("say", 1)]),
        ([f'42{LONGEST_ACK_ID}9["say",1]'], [], []),
        (['42/,1["say",1]'], ["431[1]"], [("say", 1)]),
        (['421["fail"]', '422["say",1]'], ["432[1]"], [("say", 1)]),
        (['421["unknown"]'], [], []),
        (['42/nowhere,1["say",1]'], [], []),
        (["40/nowhere,"], ['44/nowhere,"Unable to connect"'], []),
        (['40/nowhere,{"token":"x"}'], ['44/nowhere,"Unable to connect"'], []),
        (["41/nowhere,"], [], []),
        (["43[1]", "430[1]", "4399[]", "44{}", "47", "48"], [], []),
        (["40"], ['44"Unable to connect"'], []),
        (['40{"token":"another"}'], ['44"Unable to connect"'], []),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_a_connected_client_sends(http, running, sent, received, seen):
    ws = await connect(http, running.url)
    assert await answers(ws, *sent) == received
    assert running.seen[:-1] == seen


@on_both
@pytest.mark.parametrize("early", ['42["say","early"]', '421["say","early"]', "41", "43[]"])
async def test_what_comes_before_the_connect_is_not_heard(http, running, early):
    ws = await open_socket(http, running.url)
    await ws.send_str(early)
    assert (await connected_with(ws, "40")).startswith('40{"sid":')
    assert await answers(ws) == []
    assert ("say", "early") not in running.seen


@on_both
async def test_a_connect_carries_what_the_client_says_of_itself(http, running):
    ws = await open_socket(http, running.url)
    assert (await connected_with(ws, '40{"token":"x"}')).startswith('40{"sid":')
    assert running.seen == [("connect", {"token": "x"})]


@on_both
async def test_a_connect_that_is_refused_may_be_tried_again(http, running):
    ws = await open_socket(http, running.url)
    assert await connected_with(ws, '40"refuse"') == '44{"message":"Connection rejected by server"}'
    assert (await connected_with(ws, "40")).startswith('40{"sid":')
    assert await answers(ws, '420["say",1]') == ["430[1]"]


@on_both
async def test_who_leaves_the_namespace_may_come_back_as_somebody_else(http, running):
    ws = await open_socket(http, running.url)
    first = await connected_with(ws, "40")
    await ws.send_str("41")
    await ws.send_str('421["say","in between"]')
    second = await connected_with(ws, "40")
    assert first.startswith('40{"sid":') and second.startswith('40{"sid":') and first != second
    assert running.seen == [("disconnect", "client disconnect")]
    assert await answers(ws, '420["say",1]') == ["430[1]"]


@on_both
async def test_the_server_hears_a_clients_ack_once(http, running):
    ws = await connect(http, running.url)
    heard = []
    await running.server.emit("question", 1, to=running.sid(), callback=lambda *answer: heard.append(answer))
    assert await ws.receive_str() == '421["question",1]'
    await answers(ws, '431["yes",2]', '431["no"]')
    assert heard == [("yes", 2)]


@on_both
async def test_a_client_that_the_server_disconnects_is_told_and_keeps_its_session(http, running):
    ws = await connect(http, running.url)
    await running.server.disconnect(running.sid())
    assert await ws.receive_str() == "41"
    assert running.seen == [("disconnect", "server disconnect")]
    assert (await connected_with(ws, "40")).startswith('40{"sid":')


@on_both
async def test_events_go_to_the_members_of_a_room_alone(http, running):
    inside = await connect(http, running.url)
    await running.server.enter_room(running.sid(), "room")
    outside = await connect(http, running.url)
    await running.server.emit("tick", 1, room="room")
    assert await answers(inside) == ['42["tick",1]']
    assert await answers(outside) == []
