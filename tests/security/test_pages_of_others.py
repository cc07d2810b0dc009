"""What pages of other origins can do with a visitor's browser: nothing. And what every answer tells the browser."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import aiohttp
import pytest

from tests.security.conftest import Audited, GuardedNode
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Poll, Rest

FORWARDED = "X-Forwarded-For"
LISTED = "http://localhost:3000"
FOREIGN = [
    "https://evil.example",
    "null",
    "http://localhost:3000.evil.example",
    "http://evil.example/http://localhost:3000",
    "https://localhost:3000",
    "http://localhost:3001",
    "HTTP://LOCALHOST:3000",
    "*",
    "",
]
HANDSHAKE = "/socket.io/?EIO=4&transport="
REQUIRED = {
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "permissions-policy",
    "cross-origin-resource-policy",
}
JSON = {"Content-Type": "application/json"}
_sources = itertools.count(1)


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


@pytest.fixture
async def poll(rest: Rest) -> Poll:
    return await rest.open_poll()


@pytest.mark.proves("FR-010", "FR-012", "US2.5")
@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_of_another_origin_gets_no_session_by_any_way(
    rest: Rest, node: GuardedNode, address: str, audited: Audited, origin: str
) -> None:
    headers = {FORWARDED: address, "Origin": origin}
    async with aiohttp.ClientSession() as session:
        # Given a session that is under way, whose id a page may have found out
        async with session.get(node.url + HANDSHAKE + "polling") as opened:
            sid = json.loads((await opened.text())[1:])["sid"]
        # When a page of another origin connects, joins that session, or lifts it to a WebSocket
        for path in (HANDSHAKE + "websocket", f"{HANDSHAKE}websocket&sid={sid}"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(node.url + path, headers=headers)
            assert refused.value.status == 403
        for method, path in (("GET", ""), ("GET", f"&sid={sid}"), ("POST", f"&sid={sid}")):
            answer = await rest.request(method, f"{HANDSHAKE}polling{path}", url=node.url, headers=headers)
            # Then each is refused, unread by the page
            assert (answer.status, answer.body["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers and "set-cookie" not in answer.headers
    row = await audited("origin_refused", address=address, action="/socket.io/")
    assert row["outcome"] == "refused"


@pytest.mark.proves("FR-010")
async def test_a_second_origin_behind_a_listed_one_is_not_overlooked(node: GuardedNode) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = f"GET {HANDSHAKE}polling HTTP/1.1\r\nHost: x\r\nOrigin: {LISTED}\r\nOrigin: {FOREIGN[0]}\r\n\r\n"
    writer.write(request.encode())
    assert b" 403 " in await reader.readline() or b" 400 " in await reader.readline()
    writer.close()


@pytest.mark.proves("FR-010")
async def test_no_page_can_run_an_answer_as_a_script(rest: Rest, node: GuardedNode, address: str, poll: Poll) -> None:
    # A script of another page comes without an Origin: so JSONP, which engine.io would speak, is not spoken here
    for path in (f"{HANDSHAKE}polling&j=0", f"{HANDSHAKE}polling&j=0&sid=x"):
        answer = await rest.get(path, url=node.url, headers={FORWARDED: address})
        assert (answer.status, answer.body["code"]) == (400, "jsonp_not_supported")
    answer = await rest.get(f"/api/polls/{poll.code}?callback=x", url=node.url)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.proves("FR-010", "FR-012", "FR-013", "US2.5")
async def test_a_forged_request_with_a_hosts_cookie_changes_nothing(
    rest: Rest, node: GuardedNode, new_browser: NewBrowser, address: str, audited: Audited
) -> None:
    # Given a host who is known by the cookie
    poll = await rest.open_poll()
    async with aiohttp.request("GET", node.url + "/") as page:
        cookie = page.cookies["votemill"].value
    own = {"Cookie": f"votemill={cookie}"}
    host = await new_browser(node.url, cookies={"votemill": cookie}).connect()
    assert (await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token}))["role"] == "host"
    state, new = {"newState": "closed"}, {"question": "Forged?", "options": ["Yes", "No"]}
    form = {**own, "Content-Type": "application/x-www-form-urlencoded"}
    attempts: list[tuple[str, dict[str, Any], set[int]]] = [
        # When a page of another origin has the browser send a request, or a form that old browsers send without origin
        (f"/api/polls/{poll.code}/state", {"json": state, "headers": {**own, "Origin": FOREIGN[0]}}, {403}),
        (f"/api/polls/{poll.code}/host-token", {"headers": {**own, "Origin": FOREIGN[0]}}, {403}),
        ("/api/polls", {"json": new, "headers": {**own, "Origin": FOREIGN[0]}}, {403}),
        (f"/api/polls/{poll.code}/state", {"data": b"newState=closed", "headers": form}, {415}),
        (
            f"/api/polls/{poll.code}/state",
            {"data": json.dumps(state), "headers": {**own, "Content-Type": "text/plain"}},
            {415},
        ),
        (f"/api/polls/{poll.code}/host-token", {"headers": form}, {403}),
        # Or a page that is on the list does, without the token: no cookie stands for a host here
        (f"/api/polls/{poll.code}/state", {"json": state, "headers": {**own, "Origin": LISTED}}, {403}),
    ]
    for path, options, statuses in attempts:
        options["headers"] = {**options["headers"], FORWARDED: address}
        answer = await rest.request("POST", path, url=node.url, **options)
        # Then it is refused
        assert answer.status in statuses, (path, answer.text)
    assert (await rest.read(poll))["state"] == "open"
    for event in ("origin_refused", "state_change_refused", "takeover_refused", "invalid_input"):
        await audited(event, address=address)
    # And the cookie alone does host, over the socket that only listed pages get
    assert (await host.change(poll.code, "closed"))["success"]


@pytest.mark.proves("FR-011")
async def test_every_answer_carries_the_headers_that_browsers_go_by(rest: Rest, node: GuardedNode, poll: Poll) -> None:
    page = await rest.get("/", url=node.url)
    policies = {page.headers["content-security-policy"]}
    for method, path, status, options in (
        ("GET", "/", 304, {"headers": {"If-None-Match": page.headers["etag"]}}),
        ("GET", "/assets/client.js", 200, {}),
        ("GET", f"/api/polls/{poll.code}", 200, {}),
        ("POST", "/api/polls", 400, {"data": b"{", "headers": JSON}),
        ("POST", "/api/polls", 415, {"data": b"x"}),
        ("POST", "/api/polls", 413, {"data": b" " * 200_000, "headers": JSON}),
        ("DELETE", "/api/polls", 405, {}),
        ("GET", "/nowhere", 404, {}),
        ("GET", "/api/health/live", 403, {"headers": {"Origin": FOREIGN[0]}}),
        ("OPTIONS", "/api/polls", 204, {"headers": {"Origin": LISTED}}),
        ("GET", "/api/config/log-level", 403, {}),
        ("GET", HANDSHAKE + "polling", 200, {}),
        ("GET", HANDSHAKE + "polling&sid=nobody", 400, {}),
        ("GET", HANDSHAKE + "polling", 403, {"headers": {"Origin": FOREIGN[0]}}),
    ):
        if status == 304:
            async with aiohttp.request(method, node.url + path, **options) as response:
                answered, headers = response.status, {name.lower(): text for name, text in response.headers.items()}
        else:
            answer = await rest.request(method, path, url=node.url, **options)
            answered, headers = answer.status, answer.headers
        assert answered == status
        assert headers.keys() >= REQUIRED, (path, status, REQUIRED - headers.keys())
        assert headers["server"] == "votemill", path
        policies.add(headers["content-security-policy"])
    # One policy for all: nothing inline, nothing from elsewhere, no frame, and sockets to the listed origins alone
    (policy,) = policies
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert (directives["default-src"], directives["frame-ancestors"]) == ("'none'", "'none'")
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert "unsafe" not in policy and "ws:" not in directives["connect-src"].split()
    async with aiohttp.ClientSession() as session, session.ws_connect(node.url + HANDSHAKE + "websocket") as socket:
        assert {name.lower() for name in socket._response.headers} >= REQUIRED


@pytest.mark.proves("FR-007", "FR-011", "FR-012")
@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n bad: folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /api/polls HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/polls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /api/polls HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /api/polls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_request_is_refused_in_our_words_and_the_connection_ends(
    node: GuardedNode, audited: Audited, request_: bytes
) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    own = f"127.0.2.{next(_sources)}"
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(own, 0))
    writer.write(request_ + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 15)
    writer.close()
    # One answer, which tells nothing of what was sent nor of who answers
    assert answer.count(b"HTTP/1.") == 1, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert json.loads(body)["code"] == "bad_request"
    names = {line.partition(b":")[0].decode().lower() for line in head.splitlines()[1:]}
    assert names >= REQUIRED
    assert b"aiohttp" not in answer and b"Python" not in answer
    await audited("invalid_input", action="not_http", address=own)


@pytest.mark.proves("FR-007", "FR-012")
async def test_bytes_that_are_no_text_harm_nobody(
    rest: Rest, node: GuardedNode, address: str, audited: Audited
) -> None:
    # Given bytes in a path, a cookie and a token that are in no alphabet
    host, port = node.url.removeprefix("http://").split(":")
    for line in (
        b"GET /\xff\xfe HTTP/1.1\r\nOrigin: https://evil.example\r\n",
        b"GET / HTTP/1.1\r\nCookie: votemill=\xff\xfe\r\n",
        b"GET /api/config/log-level HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n",
        b"POST /api/polls/ABC234/state HTTP/1.1\r\nOrigin: \xff\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(line + f"Host: x\r\n{FORWARDED}: {address}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        assert answer.split()[1] in {b"200", b"400", b"403"}, answer
    # Then the node goes on, and what could be read of it is on record
    await audited("admin_refused", address=address)
    await audited("invalid_cookie", address=address)
    async with raw_socket(node.url) as socket:
        assert (await socket.refusal("submit-vote", "null"))["code"] == "invalid_payload"
