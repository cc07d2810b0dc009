"""How a session begins, and who gets none."""

import re
import urllib.parse

import pytest

from tests.socket_tier.transport.clients import Poller, closed, on_both, open_socket

SUPPORTED = "The client is using an unsupported version of the Socket.IO or Engine.IO protocols"


@on_both
async def test_a_polling_session_may_upgrade_and_is_told_the_limits(http, running):
    opening = (await Poller(http, running.url).open()).opening
    assert opening.pop("sid") in running.engine.sockets
    assert opening == {"upgrades": ["websocket"], "pingInterval": 20_000, "pingTimeout": 40_000, "maxPayload": 5000}


@on_both
async def test_a_websocket_session_has_nothing_to_upgrade_to(http, running):
    ws = await http.ws_connect(running.url + "/socket.io/?EIO=4&transport=websocket")
    assert re.fullmatch(r'0\{"sid":"[^"]+","upgrades":\[\],.+\}', await ws.receive_str())


@on_both
async def test_compression_is_never_agreed_on(http, running):
    ws = await http.ws_connect(running.url + "/socket.io/?EIO=4&transport=websocket", compress=15)
    assert ws.compress == 0


@on_both
@pytest.mark.parametrize(
    ("method", "query", "status", "error"),
    [
        ("GET", "EIO=3&transport=polling", 400, SUPPORTED),
        ("GET", "transport=polling", 400, SUPPORTED),
        ("GET", "", 400, SUPPORTED),
        ("GET", "EIO=4&transport=pigeon", 400, "Invalid transport"),
        ("GET", "EIO=4&transport=websocket", 400, "Invalid websocket upgrade"),
        ("GET", "EIO=4&transport=polling&sid=unknown", 400, "Invalid session unknown"),
        ("POST", "EIO=4&transport=polling&sid=unknown", 400, "Invalid session unknown"),
        ("POST", "EIO=4&transport=polling", 400, "Invalid session None"),
        ("GET", "EIO=4&transport=polling&j=x", 400, "Invalid JSONP index number"),
        ("PUT", "EIO=4&transport=polling", 405, "Method Not Allowed"),
        ("DELETE", "EIO=4&transport=polling", 405, "Method Not Allowed"),
    ],
)
async def test_a_request_that_is_none_is_refused(http, running, method, query, status, error):
    async with http.request(method, f"{running.url}/socket.io/?{query}") as response:
        assert response.status == status
        assert error in await response.text()
    assert not running.sockets()


@on_both
async def test_a_websocket_for_an_unknown_session_is_refused(http, running):
    response = await http.get(
        running.url + "/socket.io/?EIO=4&transport=websocket&sid=unknown",
        headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    )
    assert (response.status, await response.json(content_type=None)) == (400, "Invalid session unknown")


@on_both
async def test_jsonp_is_served(http, running):
    async with http.get(running.url + "/socket.io/?EIO=4&transport=polling&j=0") as response:
        opening = await response.text()
    sid = re.fullmatch(r'___eio\[0\]\("0\{\\"sid\\":\\"([^\\]+)\\".*\}"\);', opening)[1]
    session = f"{running.url}/socket.io/?EIO=4&transport=polling&sid={sid}"
    async with http.post(session + "&j=1", data="d=" + urllib.parse.quote("40")) as response:
        assert response.status == 200
    async with http.get(session + "&j=2") as response:
        assert re.fullmatch(r'___eio\[2\]\("40\{\\"sid\\":\\"[^\\]+\\"\}"\);', await response.text())


@on_both
async def test_a_session_that_the_server_refuses_gets_401(http, running):
    async def refuse(_sid, _environ):
        return False

    running.engine.on("connect", refuse)
    async with http.get(running.url + "/socket.io/?EIO=4&transport=polling") as response:
        assert response.status == 401
    assert not running.sockets()


@pytest.mark.proves("FR-014")
async def test_a_session_that_never_connects_is_closed(http, running):
    running.engine.connect_deadline_s = 0.1
    ws = await open_socket(http, running.url)
    polling = await Poller(http, running.url).open(connect=False)
    hanging = polling.hang()
    # Stock keeps both for ever.
    assert await ws.receive_str() == "1"
    assert await closed(ws) == 1000
    assert await hanging == ["1"]
    assert running.dropped == ["never_connected"] * 2
    assert await polling.poll() == ["400"]
