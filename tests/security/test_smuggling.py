"""Requests that a balancer and a node might read differently, and headers that only a balancer may write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg2
import pytest

from models.runtime.hashed_addresses import hashed_address
from models.runtime.settings import load
from tests.security.conftest import Audited
from tests.socket_tier.rest import Poll, Rest

FORWARDED = "X-Forwarded-For"
HIDDEN = (
    "POST /api/polls/{code}/state HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n"
    "Content-Type: application/json\r\nContent-Length: 21\r\nConnection: close\r\n\r\n"
    '{{"newState":"closed"}}'
)
POST = "POST /api/polls/{code}/state HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# Each hides a request in what one of two servers could take for the body of the one before.
VARIANTS = {
    "two lengths": POST + "Content-Length: 5\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "two lengths in one": POST + "Content-Length: 5, {length}\r\n\r\n{hidden}",
    "length and chunks": POST + "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "chunks and length": POST
    + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n",
    "two encodings": POST
    + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: {length}\r\n\r\n"
    "0\r\n\r\n{hidden}",
    "an unknown encoding": POST + "Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "a tab before the encoding": POST
    + "Transfer-Encoding:\tchunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "a blank before the colon": POST
    + "Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "a folded header": POST
    + "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "a bare line feed": POST + "X: y\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "a signed length": POST + "Content-Length: +0\r\n\r\n{hidden}",
    "a chunk with an extension": POST + "Transfer-Encoding: chunked\r\n\r\n0;\n{hidden}\r\n\r\n",
    "a body of a GET": "GET /api/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "a false upgrade": "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 777\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{hidden}",
    "an upgrade to HTTP/2": "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n{hidden}",
    "a line break in a header": "GET /api/health/live HTTP/1.1\r\nHost: x\r\nX: a\r\r\n\r\n{hidden}",
}


@pytest.fixture
async def poll(rest: Rest) -> Poll:
    return await rest.open_poll()


async def answers(url: str, request: str) -> bytes:
    """What comes back until the other side ends it, or for a moment."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request.encode())
    received = b""
    try:
        async with asyncio.timeout(1.5):
            while chunk := await reader.read(65_536):
                received += chunk
    except (TimeoutError, ConnectionError):
        pass  # it waits for more, or has hung up
    writer.close()
    return received


def refused_from(database_url: str, address: str) -> int:
    """How many state changes are on record as refused for an address."""
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            hashed = hashed_address(load().audit.address_key, address)
            cursor.execute("SELECT count(*) FROM audit_log WHERE address = %s", (hashed,))
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


@pytest.mark.proves("FR-007", "FR-012")
async def test_no_request_gets_past_the_balancer_inside_another(
    rest: Rest,
    base_url: str,
    node_urls: list[str],
    new_address: Callable[[], str],
    poll: Poll,
    database_url: str,
    audited: Audited,
) -> None:
    # Given requests that a node would take for those of this address, if the balancer hasn't seen them: it would have
    # written the header anew
    address = new_address()
    hidden = HIDDEN.format(code=poll.code, address=address)
    sizes = {"code": poll.code, "hidden": hidden, "length": len(hidden) + 5, "size": len(hidden)}
    requests = {name: text.format(**sizes) for name, text in VARIANTS.items()}
    # When each is sent through the balancer
    received = await asyncio.gather(*(answers(base_url, request) for request in requests.values()))
    # Then what is answered is answered in order, and nothing was carried out
    for name, answer in zip(requests, received, strict=True):
        assert answer.count(b"HTTP/1.") <= 2, (name, answer)
        assert b'"success":true' not in answer.replace(b" ", b""), (name, answer)
    # And no node has heard of that address, while it does record those that come straight to it
    for url in node_urls:
        control = new_address()
        await answers(url, HIDDEN.format(code=poll.code, address=control))
        row = await audited("state_change_refused", address=control, room_code=poll.code)
        assert row["details"]["reason"] == "missing"
    assert refused_from(database_url, address) == 0
    assert (await rest.read(poll))["state"] == "open"


@pytest.mark.proves("FR-009", "FR-012")
async def test_what_a_client_says_of_itself_doesnt_get_past_the_balancer(
    rest: Rest, new_address: Callable[[], str], poll: Poll, database_url: str, audited: Audited
) -> None:
    # Given a client that claims to be elsewhere, in every way that proxies know
    claimed = new_address()
    headers = [
        (FORWARDED, claimed),
        (FORWARDED, f"127.0.0.1, {claimed}"),
        ("x-forwarded-FOR", claimed),
        ("X_Forwarded_For", claimed),
        ("X-Real-IP", claimed),
        ("True-Client-IP", claimed),
        ("Forwarded", f"for={claimed};host=evil.example;proto=https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Original-URL", "/api/config/log-level"),
        ("X-HTTP-Method-Override", "DELETE"),
    ]
    for name, value in headers:
        path = f"/api/polls/{poll.code}/state"
        answer = await rest.request("POST", path, json={"newState": "closed"}, headers={name: value})
        assert answer.status == 403
    # Then it is on record as where it is
    await audited("state_change_refused", address="127.0.0.1", room_code=poll.code)
    created = await rest.request(
        "POST",
        "/api/polls",
        json={"question": "Where?", "options": ["Here", "There"]},
        headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Host": "evil.example"},
    )
    assert "evil.example" not in created.text
    assert refused_from(database_url, claimed) == 0
