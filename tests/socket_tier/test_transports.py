"""How the official clients connect, and what a page of a foreign origin gets."""

import json

import aiohttp
import pytest

from tests.socket_tier.browsers import Browser, both_transports, every_client
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.transport.clients import Poller
from tests.socket_tier.waiting import eventually

FOREIGN = "https://elsewhere.example"
LISTED = "http://localhost:3000"


@both_transports
async def test_the_client_of_the_mvp_begins_with_polling_and_upgrades(new_browser: NewBrowser, poll: Poll) -> None:
    # Given the unchanged MVP client: polling first, no auth payload
    browser = await new_browser(kind="js-polling-first").connect()
    # When it has had the time to upgrade
    await eventually(lambda: "websocket" in browser.transports, "an upgrade to WebSocket")
    # Then it goes on over WebSocket
    assert browser.transports == ["polling", "websocket"]
    assert (await browser.join(poll.code, "Ada"))["poll"]["state"] == "open"


@both_transports
async def test_a_client_that_knows_websocket_only_connects(new_browser: NewBrowser, poll: Poll) -> None:
    browser = await new_browser(kind="js-websocket").connect()
    assert (await browser.join(poll.code, "Ada"))["success"]
    assert browser.transports == ["websocket"]


@pytest.mark.proves("FR-010", "US2.5")
@every_client
async def test_a_page_of_an_unlisted_origin_gets_no_session(new_browser: NewBrowser) -> None:
    # Given a page of an origin that is on no list
    browser = new_browser(headers={"Origin": FOREIGN})
    # When it tries to connect
    await browser.open()
    # Then it is refused
    await eventually(lambda: browser.refusals, "a refusal")
    assert browser.connections == 0


@every_client
async def test_a_page_of_a_listed_origin_connects(new_browser: NewBrowser, poll: Poll) -> None:
    browser = await new_browser(headers={"Origin": LISTED}).connect()
    assert (await browser.join(poll.code, "Ada"))["success"]


@pytest.mark.proves("FR-010")
async def test_a_listed_origin_is_echoed_with_credentials(rest: Rest) -> None:
    # Given a preflight of a listed page
    headers = {
        "Origin": LISTED,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = await rest.request("OPTIONS", "/api/polls", headers=headers)
    # Then it may send JSON with its cookies, and the origin is the exact one
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == LISTED
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
    # And so has the answer itself
    answer = await rest.get("/api/health/live", headers={"Origin": LISTED})
    assert answer.headers["access-control-allow-origin"] == LISTED


@pytest.mark.proves("FR-010", "US2.5")
@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
async def test_an_unlisted_origin_gets_403_on_rest(rest: Rest, method: str) -> None:
    path = "/api/health/live" if method == "GET" else "/api/polls"
    answer = await rest.request(method, path, headers={"Origin": FOREIGN})
    assert answer.status == 403
    assert answer.body["error"] == "Origin not allowed"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", [LISTED + "/", LISTED.upper(), "null", LISTED + ".elsewhere.example"])
async def test_an_origin_that_only_looks_like_a_listed_one_is_refused(rest: Rest, origin: str) -> None:
    assert (await rest.get("/api/health/live", headers={"Origin": origin})).status == 403


@both_transports
async def test_the_handshake_sets_a_cookie_that_no_script_can_read(base_url: str) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        for path in ("/socket.io/?EIO=4&transport=polling", "/"):
            async with session.get(base_url + path) as response:
                cookie = response.cookies["votemill"]
                assert cookie["httponly"]
                assert cookie["samesite"] == "Lax"
                assert cookie["path"] == "/"


@pytest.mark.proves("FR-011")
async def test_every_answer_carries_the_security_headers(rest: Rest) -> None:
    for path in ("/", "/api/health/live", "/api/polls/ZZZZZZ", "/nowhere"):
        headers = (await rest.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]


@both_transports
async def test_all_that_a_polling_client_has_buffered_is_answered(base_url: str, poll: Poll) -> None:
    # Given a client that polls, and has collected more events than engine.io takes in one payload
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        client = await Poller(http, base_url).open()
        join = json.dumps(["join-room", {"roomCode": poll.code, "nickname": "Ada"}])
        events = [f"42{number}{join}" for number in range(40)]
        # When it sends all of them at once
        assert await client.send(*events) == 200
        # Then each gets its ack
        received: list[str] = []
        while sum(packet.startswith("43") for packet in received) < 40:
            received += await client.poll()
        acked = [packet.partition("[")[0] for packet in received if packet.startswith("43")]
        assert acked == [f"43{number}" for number in range(40)]


@both_transports
async def test_a_connection_that_breaks_off_is_a_leave_at_once(base_url: str, poll: Poll, host: Browser) -> None:
    # Given a participant
    async with raw_socket(base_url) as socket:
        number = socket.numbered()
        await socket.send(f'42{number}["join-room",{{"roomCode":"{poll.code}","nickname":"Ada"}}]')
        assert (await socket.answer("join-room", number))["success"]
        # When what comes is no packet at all, then the node hangs up
        await socket.send("hello")
        await socket.closed.wait()
        # And she is not kept until the ping time-out
        await host.hears("participant-left", nickname="Ada", count=0)
