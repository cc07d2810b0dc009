"""Every kind of security event on a running node: refused, in the log, and in the table, with the address hashed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import psycopg2
import pytest

from models.runtime.settings import load
from models.runtime.signing_keys import fingerprint
from tests.security.conftest import COALESCE_S, ROOT, Audited, GuardedNode
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
FOREIGN = "https://evil.example"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


@pytest.mark.proves("FR-012", "US2.3")
@pytest.mark.parametrize(
    ("method", "path", "status", "event", "options"),
    [
        ("POST", "/api/polls", 400, "invalid_input", {"data": b"{", "headers": JSON}),
        ("POST", "/api/polls", 400, "invalid_input", {"json": {"question": "?", "options": ["a"]}}),
        ("POST", "/api/polls", 413, "invalid_input", {"data": b" " * 200_000, "headers": JSON}),
        ("POST", "/api/polls", 415, "invalid_input", {"data": b"a=b", "headers": {"Content-Type": "text/plain"}}),
        ("GET", "/api/health/live", 403, "origin_refused", {"headers": {"Origin": FOREIGN}}),
        ("GET", "/api/config/log-level", 403, "admin_refused", {"headers": {"Authorization": "Bearer wrong"}}),
        ("POST", "/api/polls/{code}/state", 403, "state_change_refused", {"json": {"newState": "closed"}}),
        ("GET", "/api/polls/{code}/results.csv", 403, "export_refused", {"headers": {"Authorization": "Bearer x"}}),
        ("GET", "/", 200, "invalid_cookie", {"headers": {"Cookie": "votemill=forged"}}),
    ],
)
async def test_a_refused_request_is_on_record(
    rest: Rest,
    node: GuardedNode,
    address: str,
    audited: Audited,
    method: str,
    path: str,
    status: int,
    event: str,
    options: dict[str, Any],
) -> None:
    poll = await rest.create()
    headers = {**options.get("headers", {}), FORWARDED: address}
    answer = await rest.request(method, path.format(code=poll.code), url=node.url, **{**options, "headers": headers})
    assert answer.status == status
    row = await audited(event, address=address)
    assert row["outcome"] == "refused"
    if status >= 400:
        assert row["correlation_id"] == answer.body["correlationId"]

    # And in the log, without the address
    def logged() -> list[str]:
        lines = [json.loads(text) for text in node.log.read_text().splitlines() if row["correlation_id"] in text]
        assert address not in json.dumps(lines)
        return [line["address"] for line in lines if line["event"] == event]

    assert await eventually(logged, "the line in the log") == [row["address"]]


@pytest.mark.proves("FR-012", "US2.3")
@pytest.mark.parametrize(
    ("event", "payload", "audit_event"),
    [
        ("join", {"hostToken": "forged"}, "invalid_host_token"),
        ("change-poll-state", {"newState": "open"}, "state_change_refused"),
        ("join-room", {"nickname": "<script>"}, "invalid_input"),
        ("join-room", {"nickname": "A", "participantToken": "x"}, "invalid_participant_token"),
        (
            "submit-vote",
            {"participantId": "0190d9c0-3ad8-7abc-8def-0123456789ab", "optionIndex": 0},
            "foreign_participant",
        ),
    ],
)
async def test_a_refused_event_is_on_record(
    new_browser: NewBrowser,
    rest: Rest,
    node: GuardedNode,
    address: str,
    audited: Audited,
    event: str,
    payload: dict[str, Any],
    audit_event: str,
) -> None:
    poll = await rest.open_poll()
    browser = await new_browser(url=node.url, headers={FORWARDED: address}).connect()
    ack = await browser.call(event, {**payload, "roomCode": poll.code})
    # A participant's bad token is no reason to keep somebody out; it only makes nobody of them.
    assert ack["success"] is (audit_event == "invalid_participant_token")
    row = await audited(audit_event, address=address)
    assert (row["outcome"], row["correlation_id"]) == ("refused", ack["correlationId"])


@pytest.mark.proves("FR-010", "FR-012", "US2.5")
async def test_a_foreign_page_that_connects_is_refused_and_on_record(
    node: GuardedNode, address: str, audited: Audited
) -> None:
    handshake = f"{node.url}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(handshake, headers={FORWARDED: address, "Origin": FOREIGN})
    await audited("origin_refused", address=address, action="/socket.io/")


@pytest.mark.proves("FR-012")
@pytest.mark.parametrize(
    "packet", ['42["submit-vote",', '451-["join",{"_placeholder":true,"num":0}]', "42" + "[" * 20_000]
)
async def test_a_packet_that_cant_be_read_is_on_record(
    node: GuardedNode, address: str, audited: Audited, packet: str
) -> None:
    code = {"4": "malformed_packet"}.get(packet[0])
    code = "payload_too_large" if len(packet) > 16_384 else "invalid_payload" if packet.startswith("45") else code
    async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
        await socket.send(packet)
        await audited("invalid_input", address=address, action=code)


@pytest.mark.proves("FR-012")
async def test_what_hosts_and_administrators_do_is_on_record(
    rest: Rest, node: GuardedNode, address: str, run_dir: Any, audited: Audited
) -> None:
    # When a host creates a poll, opens it and takes the results, and an administrator looks in
    origin = {FORWARDED: address}
    answer = await rest.request(
        "POST", "/api/polls", url=node.url, json={"question": "Tea?", "options": ["Yes", "No"]}, headers=origin
    )
    code = answer.body["roomCode"]
    host = {**origin, "Authorization": f"Bearer {answer.body['hostToken']}"}
    opened = await rest.request(
        "POST", f"/api/polls/{code}/state", url=node.url, json={"newState": "open"}, headers=host
    )
    exported = await rest.get(f"/api/polls/{code}/results.csv", url=node.url, headers=host)
    admin = {**origin, "Authorization": f"Bearer {os.environ['VOTEMILL_SECURITY__ADMIN_TOKEN']}"}
    looked = await rest.get("/api/config/log-level", url=node.url, headers=admin)
    assert (opened.status, exported.status, looked.status) == (200, 200, 200)
    # Then each is on record
    for event in ("poll_created", "state_change_asked", "results_exported"):
        row = await audited(event, address=address, room_code=code)
        assert row["outcome"] == "ok"
    await audited("log_level_read", address=address)
    # And so is the change itself, with who made it
    changed = await audited("poll_state_changed", room_code=code)
    assert changed["actor"] == row["address"]


@pytest.mark.proves("FR-012", "FR-024")
async def test_which_keys_a_node_signs_with_is_on_record_without_the_keys(node: GuardedNode, audited: Audited) -> None:
    row = await audited("signing_keys_in_use", action=node.name)
    keys = load().security.key_ring().usable()
    assert row["details"]["keys"].split() == [fingerprint(key) for key in keys]
    assert row["details"]["keys"] not in " ".join(keys)


@pytest.mark.proves("FR-012", "FR-014")
async def test_a_flood_of_refusals_leaves_a_few_lines_and_its_number(
    rest: Rest, node: GuardedNode, address: str, database_url: str, audited: Audited
) -> None:
    # When somebody sends the same nonsense three hundred times
    began = time.monotonic()
    for _ in range(300):
        await rest.get("/api/polls/%00", url=node.url, headers={FORWARDED: address})
    windows = 1 + math.ceil((time.monotonic() - began) / COALESCE_S)
    first = await audited("invalid_input", address=address)

    def rows() -> list[dict[str, str]]:
        connection = psycopg2.connect(database_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT details FROM audit_log WHERE address = %s ORDER BY id", (first["address"],))
                return [details for (details,) in cursor.fetchall()]
        finally:
            connection.close()

    # Then each window has room for two lines, the first and the number of the others, and all of it is counted
    counted = await eventually(
        lambda: (
            (found := rows())
            and sum(int(row.get("repeated", "0")) + ("repeated" not in row) for row in found) == 300
            and found
        ),
        "three hundred on record",
        within_s=40,
    )
    assert len(counted) <= 2 * windows
    await eventually(lambda: node.log.read_text().count(first["address"]) == len(counted), "the same lines in the log")


@pytest.mark.proves("FR-012")
async def test_the_audit_command_finds_by_address_and_room(
    rest: Rest, node: GuardedNode, address: str, run_dir: Any, new_address: Callable[[], str], audited: Audited
) -> None:
    poll = await rest.create()
    await rest.request(
        "POST", f"/api/polls/{poll.code}/state", url=node.url, json={"newState": "open"}, headers={FORWARDED: address}
    )
    await audited("state_change_refused", address=address)

    def run(*words: str) -> list[dict[str, Any]]:
        command = [ROOT / "scripts" / "audit", "--run-dir", run_dir, "--json", "--since", "1h", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [json.loads(text) for text in done.stdout.splitlines()]

    (found,) = run("--address", address)
    assert (found["event"], found["room_code"]) == ("state_change_refused", poll.code)
    assert address not in json.dumps(found)
    assert found in run("--room", poll.code.lower(), "--event", "state_change_refused", "--outcome", "refused")
    assert found in run("--correlation-id", found["correlation_id"])
    assert run("--address", new_address()) == []
