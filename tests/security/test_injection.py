"""Whatever is typed or sent is data: kept as typed or refused, and never run, by no database, spreadsheet or log."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import psycopg2
import pytest

from tests.security.conftest import Audited, GuardedNode
from tests.security.raw_http import raw_http, request
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
ATTACKS = {
    "sql": "'); DROP TABLE polls; --",
    "sql or": "' OR '1'='1",
    "sql parameter": "%s %(room_code)s $1 {0} {NULL,\"a\\\\\"}",
    "html": "<script>document.title='x'</script>",
    "html attribute": "\"><img src=x onerror=alert(1)>",
    "csv": "=HYPERLINK(\"http://evil.example\";\"win\")",
    "csv plus": "+1+cmd|' /C calc'!A0",
    "csv wide": "\uff1d1+1",
    "log": "x\r\n{\"level\": \"ERROR\", \"event\": \"forged\"}",
    "terminal": "\x1b[2J\x1b]0;owned\x07",
    "bidi": "\u202egnp.exe\u2066",
}  # fmt: skip
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


def polls_stored(database_url: str, codes: list[str]) -> dict[str, tuple[str, list[str]]]:
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT room_code, question, options FROM polls WHERE room_code = ANY(%s)", (codes,))
            return {code: (question, options) for code, question, options in cursor.fetchall()}
    finally:
        connection.close()


@pytest.mark.proves("FR-007", "US2.1")
async def test_questions_and_options_are_kept_as_they_are_typed(rest: Rest, database_url: str) -> None:
    # When polls are created with everything that could be run somewhere
    typed = {}
    for attack in ATTACKS.values():
        body = {"question": attack, "options": [f"{attack} {number}" for number in range(2)]}
        answer = await rest.request("POST", "/api/polls", json=body)
        assert answer.status == 201
        typed[answer.body["roomCode"]] = (attack.strip(), [option.strip() for option in body["options"]])
    # Then it is stored as it was typed, and shown so
    assert polls_stored(database_url, list(typed)) == typed
    for code, (question, options) in typed.items():
        shown = (await rest.get(f"/api/polls/{code}")).body
        assert (shown["question"], shown["options"]) == (question, options)


@pytest.mark.proves("FR-007")
async def test_no_cell_of_the_export_is_a_formula_wherever_a_spreadsheet_splits(
    rest: Rest, new_browser: NewBrowser
) -> None:
    # Given votes for options that are formulas, also behind what some spreadsheets split at, by somebody named like one
    options = ["=1+1", "\uff0b1+1", "Tea;=1+1", "Tea\t @SUM(1)", "Tea\r\n-1+1"]
    created = await rest.request("POST", "/api/polls", json={"question": "?", "options": options})
    code, host = created.body["roomCode"], {"Authorization": f"Bearer {created.body['hostToken']}"}
    opened = await rest.request("POST", f"/api/polls/{code}/state", json={"newState": "open"}, headers=host)
    assert opened.status == 200
    for option in range(len(options)):
        voter = await new_browser().connect()
        joined = await voter.join(code, f"-{option}")
        assert (await voter.vote(code, joined, option))["success"]
        await voter.hears("vote-recorded")
    # When the host exports them
    exported = (await rest.get(f"/api/polls/{code}/results.csv", headers=host)).text
    # Then the rows are whole, and whichever separator is taken no cell begins like a formula
    rows = list(csv.reader(io.StringIO(exported, newline="")))
    assert {row[1].replace("'", "") for row in rows[1:]} == {*options}
    for separator in ",;\t":
        read = csv.reader(io.StringIO(exported, newline=""), delimiter=separator)
        cells = [cell.lstrip() for row in read for cell in row]
        assert len(cells) > len(options)
        assert not [cell for cell in cells if cell.startswith(FORMULA_STARTS)], separator


@pytest.mark.proves("FR-007", "FR-008", "FR-012", "US2.1")
@pytest.mark.parametrize("attack", [*ATTACKS.values(), "A\x00da", "\u3164", "\u2800", "A\u200eda"], ids=ascii)
async def test_a_nickname_is_refused_and_never_rewritten(
    new_browser: NewBrowser, rest: Rest, node: GuardedNode, address: str, audited: Audited, attack: str
) -> None:
    poll = await rest.open_poll()
    browser = await new_browser(url=node.url, headers={FORWARDED: address}).connect()
    refused = await browser.call("join-room", {"roomCode": poll.code, "nickname": attack})
    assert refused["code"] == "invalid_nickname"
    row = await audited("invalid_input", address=address, action="invalid_nickname")
    assert (row["outcome"], row["correlation_id"]) == ("refused", refused["correlationId"])
    assert (await rest.read(poll))["participantCount"] == 0


@pytest.mark.proves("FR-007", "FR-008", "FR-012")
@pytest.mark.parametrize("attack", [*ATTACKS.values(), "A\x00da"], ids=ascii)
async def test_codes_tokens_and_ids_are_compared_and_never_run(
    new_browser: NewBrowser, rest: Rest, node: GuardedNode, address: str, audited: Audited, attack: str
) -> None:
    poll = await rest.open_poll()
    browser = await new_browser(url=node.url, headers={FORWARDED: address}).connect()
    joined = await browser.join(poll.code, "Ada")
    good: dict[str, dict[str, Any]] = {
        "join": {"roomCode": poll.code, "hostToken": poll.host_token},
        "join-room": {"roomCode": poll.code, "nickname": "Ada"},
        "submit-vote": {"roomCode": poll.code, "participantId": joined["participantId"], "optionIndex": 0},
        "change-poll-state": {"roomCode": poll.code, "newState": "closed", "hostToken": poll.host_token},
    }
    # When any of them is something else
    refusals: dict[str, set[str]] = {}
    for event, field in (
        ("join", "roomCode"), ("join", "hostToken"), ("join-room", "roomCode"), ("submit-vote", "roomCode"),
        ("submit-vote", "participantId"), ("submit-vote", "optionIndex"), ("change-poll-state", "roomCode"),
        ("change-poll-state", "newState"), ("change-poll-state", "hostToken"), (attack, ""),
    ):  # fmt: skip
        payload = {**good[event], field: attack} if field else {}
        refusal = await browser.call(event, payload)
        assert not refusal["success"], (event, field)
        refusals.setdefault(refusal["code"], set()).add(field)
    # Then each is refused as what it is, and on record; nothing has changed
    tokens = {"hostToken"} & refusals.get("invalid_token", set())
    assert refusals["invalid_room_code"] == {"roomCode"}
    assert refusals["invalid_option"] == {"optionIndex"}
    assert refusals["invalid_state"] == {"newState"}
    assert refusals["unknown_event"] == {""}
    assert tokens or "hostToken" in refusals["invalid_payload"]
    for action in ("invalid_room_code", "invalid_option", "invalid_state", "unknown_event"):
        await audited("invalid_input", address=address, action=action)
    if "foreign_participant" in refusals:
        await audited("foreign_participant", address=address, room_code=poll.code)
    now = await rest.read(poll)
    assert (now["state"], sum(now["votes"]), now["participantCount"]) == ("open", 0, 1)


@pytest.mark.proves("FR-007", "FR-008")
async def test_a_command_id_comes_back_as_it_was_or_is_refused(
    new_browser: NewBrowser, rest: Rest, node: GuardedNode
) -> None:
    poll = await rest.open_poll()
    browser = await new_browser(url=node.url).connect()
    joined = await browser.join(poll.code, "Ada")
    for command in ("\"}]<b>'%s\\u2028", "\u202e\u2028💥", "x" * 64):
        assert (await browser.vote(poll.code, joined, 0, commandId=command))["commandId"] == command
        await browser.hears("vote-recorded", commandId=command)
    for command in ("x" * 65, "a\r\nb", "a\x00", "\x1b[2J"):
        assert (await browser.vote(poll.code, joined, 1, commandId=command))["error"] == "Invalid commandId"


@pytest.mark.proves("FR-012", "FR-015")
async def test_nothing_that_is_sent_makes_a_log_line_or_spoils_the_record(
    rest: Rest, node: GuardedNode, address: str, audited: Audited
) -> None:
    # When a foreign page calls a path with what could end a line, and with what Postgres can't store
    forged = "/api/%00%0d%0a%7B%22event%22:%22forged%22%7D%E2%80%AE"
    headers = {FORWARDED: address, "Origin": "https://evil.example"}
    answer = await rest.get(forged, url=node.url, headers=headers)
    assert answer.status == 403
    # Then it is on record, printable
    row = await audited("origin_refused", address=address)
    assert row["action"] == '/api/\ufffd\ufffd\ufffd{"event":"forged"}\ufffd'
    # And every line of the log, which a thread writes, is one of ours
    await eventually(lambda: '"origin_refused"' in node.log.read_text(), "its line in the log")
    events = [json.loads(line)["event"] for line in node.log.read_text().splitlines()]
    assert "origin_refused" in events
    assert "forged" not in events


@pytest.mark.proves("FR-008", "FR-039")
@pytest.mark.parametrize(
    ("method", "path", "header", "status"),
    [
        ("GET", "/api/config/log-level", b"Authorization: Bearer \xff\xfe", 403),
        ("GET", "/api/polls/{code}/results.csv", b"Authorization: Bearer \xff\xfe", 403),
        ("GET", "/", b"Cookie: votemill=\xff\xfe.x.y", 200),
        ("GET", "/api/polls/{code}", b"Origin: http://\xff", 403),
        ("GET", "/api/polls/{code}", b"Expect: \xff", 200),
        ("GET", "/nothing", b"Expect: \xff", 404),
        ("GET", "/socket.io/?EIO=4&transport=polling", b"Origin: http://\xff", 403),
        ("GET", "/socket.io/?EIO=4&transport=polling", b"Cookie: votemill=\xff\xfe.x.y", 200),
        ("POST", "/api/polls", b"Content-Type: application/json\xff\r\nContent-Length: 2\r\n\r\n{}", 415),
    ],
)
async def test_headers_that_are_no_text_are_refused_like_wrong_ones(
    rest: Rest, node: GuardedNode, address: str, audited: Audited, method: str, path: str, header: bytes, status: int
) -> None:
    poll = await rest.create()
    forwarded = f"{FORWARDED}: {address}".encode()
    answer = await raw_http(node.url, request(method, path.format(code=poll.code), forwarded, header))
    assert answer is not None
    assert answer.status == status
    if status >= 400 and not path.startswith("/socket.io"):
        assert answer.body["success"] is False


@pytest.mark.proves("FR-008", "FR-012", "FR-014")
@pytest.mark.parametrize(
    ("head", "body", "status", "code"),
    [
        (b"Transfer-Encoding: chunked", b"zz\r\n{}\r\n", 400, "broken_body"),
        (b"Content-Encoding: gzip\r\nContent-Length: 9", b"not gzip!", 415, "invalid_content_encoding"),
        (b"Content-Length: 1000", b"{", None, ""),
    ],
)
async def test_a_body_that_is_broken_off_or_garbled_is_the_clients_mistake(
    node: GuardedNode, address: str, head: bytes, body: bytes, status: int | None, code: str
) -> None:
    json_type = b"Content-Type: application/json"
    sent = request("POST", "/api/polls", json_type, f"{FORWARDED}: {address}".encode(), head, body=body)
    answer = await raw_http(node.url, sent, hang_up=status is None)
    assert (answer.status if answer else None) == status
    if answer:
        assert answer.body["code"] in (code, "bad_request")  # the latter when it is no HTTP from its first bytes
    await eventually(lambda: _served(node.url), "the node serves others")
    assert "Traceback" not in node.log.read_text()


@pytest.mark.proves("FR-012")
async def test_what_is_no_http_is_on_record_and_no_traceback(node: GuardedNode, audited: Audited) -> None:
    for sent in (
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ):
        answer = await raw_http(node.url, sent)
        assert answer is None or answer.status == 400
    await audited("invalid_input", action="not_http", address="127.0.0.1")
    assert "Error handling request" not in node.log.read_text()


async def _served(url: str) -> bool:
    answer = await raw_http(url, request("GET", "/api/health/live"))
    return answer is not None and answer.status == 200
