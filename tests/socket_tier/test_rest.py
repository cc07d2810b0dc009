"""The REST calls of the wire contract."""

import asyncio
import csv
import io
import json
import time
from typing import Any

import pytest

from tests.socket_tier.browsers import Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

_JSON = {"Content-Type": "application/json"}


async def test_a_new_poll_waits_and_has_no_votes(rest: Rest) -> None:
    # When a poll is created, with blanks around its texts
    answer = await rest.request(
        "POST", "/api/polls", json={"question": "  Tea <or> coffee? ", "options": [" Tea", "Coffee "]}
    )
    # Then the MVP's four fields stand at top level, trimmed and otherwise as typed
    body = answer.body
    assert answer.status == 201
    assert (body["question"], body["options"], body["state"]) == ("Tea <or> coffee?", ["Tea", "Coffee"], "waiting")
    assert body["poll"]["roomCode"] == body["roomCode"]
    assert (body["votes"], body["percentages"]) == ([0, 0], [0, 0])
    # And both links lead to it
    assert body["joinUrl"].endswith(f"/j/{body['roomCode']}")
    assert body["hostUrl"].endswith(f"/host/{body['roomCode']}#{body['hostToken']}")


@pytest.mark.proves("FR-001")
async def test_a_poll_can_be_read_by_its_code_in_any_case(rest: Rest, poll: Poll) -> None:
    for code in (poll.code, poll.code.lower()):
        answer = await rest.get(f"/api/polls/{code}")
        assert answer.status == 200
        assert answer.body["state"] == "open"
        assert answer.body["roomCode"] == poll.code


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api/polls/ZZZZZZ", 404, "Poll not found"),
        ("/api/polls/ZZZ", 400, "Invalid room code format"),
        ("/api/polls/ABC10I", 400, "Invalid room code format"),
        ("/api/polls/%00%00%00%00%00%00", 400, "Invalid room code format"),
        ("/api/polls/" + "Z" * 500, 400, "Invalid room code format"),
        ("/api/polls/ZZZZZZ/results.csv", 404, "Poll not found"),
        ("/api/nothing", 404, "Not found"),
        ("/nothing", 404, "Not found"),
        ("/assets/nothing.js", 404, "Not found"),
        ("/assets/../app.py", 404, "Not found"),
    ],
)
async def test_what_is_not_there_says_so(rest: Rest, path: str, status: int, error: str) -> None:
    answer = await rest.get(path)
    assert (answer.status, answer.body["error"]) == (status, error)


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/polls"), ("GET", "/api/polls"), ("PUT", "/api/polls/ZZZZZZ"), ("POST", "/api/health/live")],
)
async def test_a_method_that_a_path_doesnt_have_gets_405(rest: Rest, method: str, path: str) -> None:
    answer = await rest.request(method, path)
    assert answer.status == 405
    assert answer.headers["allow"]
    assert answer.body["error"] == "Method not allowed"


@pytest.mark.proves("FR-008", "US2.4")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (None, "Invalid payload: expected an object"),
        ([], "Invalid payload: expected an object"),
        ("text", "Invalid payload: expected an object"),
        (1.5, "Invalid payload: expected an object"),
        ({}, "Missing required fields: question and options"),
        ({"question": "Tea?"}, "Missing required fields: question and options"),
        ({"question": "", "options": ["a", "b"]}, "Question must not be empty"),
        ({"question": "  ", "options": ["a", "b"]}, "Question must not be empty"),
        ({"question": 7, "options": ["a", "b"]}, "Question must not be empty"),
        ({"question": "x" * 501, "options": ["a", "b"]}, "Question must be 500 characters or less"),
        ({"question": "Tea?", "options": ["a"]}, "Options array must contain 2-5 elements"),
        ({"question": "Tea?", "options": list("abcdef")}, "Options array must contain 2-5 elements"),
        ({"question": "Tea?", "options": "ab"}, "Options array must contain 2-5 elements"),
        ({"question": "Tea?", "options": ["a", ""]}, "Each option must be 1-100 characters"),
        ({"question": "Tea?", "options": ["a", "x" * 101]}, "Each option must be 1-100 characters"),
        ({"question": "Tea?", "options": ["a", None]}, "Each option must be 1-100 characters"),
        ({"question": "Tea?", "options": ["Tea", " tea "]}, "Options must be distinct"),
        ({"question": "T\x00a", "options": ["a", "b"]}, "Invalid characters in question"),
        ({"question": "T\ud800a", "options": ["a", "b"]}, "Request body must be valid JSON"),
        ({"question": "Tea?", "options": ["a", "b\udfff"]}, "Request body must be valid JSON"),
        ({"question": "Tea?", "options": ["a", "b\x00"]}, "Invalid characters in option"),
        (
            {"question": "Tea?", "options": ["a", "b"], "more": 1},
            "Invalid payload: it has fields that are not known here",
        ),
    ],
)
async def test_a_poll_that_is_not_well_formed_is_refused(rest: Rest, body: Any, error: str) -> None:
    answer = await rest.request("POST", "/api/polls", data=json.dumps(body), headers=_JSON)
    assert (answer.status, answer.body["error"]) == (400, error)


async def test_the_longest_question_and_options_are_taken(rest: Rest) -> None:
    body = {"question": "é" * 500, "options": [f"{n}" + "😀" * 99 for n in range(5)]}
    answer = await rest.request("POST", "/api/polls", json=body)
    assert answer.status == 201
    assert answer.body["options"] == body["options"]


@pytest.mark.parametrize(
    ("data", "kind", "status", "error"),
    [
        (b"question=x", "application/x-www-form-urlencoded", 415, "Content-Type must be application/json"),
        (b"{}", "text/plain", 415, "Content-Type must be application/json"),
        (b"", "application/json", 400, "Request body must be valid JSON"),
        (b"{", "application/json", 400, "Request body must be valid JSON"),
        (b"\xff\xfe\x00", "application/json", 400, "Request body must be valid JSON"),
        (b"[" * 10_000, "application/json", 400, "Request body must be valid JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "application/json", 400, "Request body must be valid JSON"),
        (b'{"question": NaN, "options": Infinity}', "application/json", 400, "Request body must be valid JSON"),
        (b'{"question": 1e999, "options": []}', "application/json", 400, "Request body must be valid JSON"),
        (b'"' + b"x" * 100_001 + b'"', "application/json", 413, "Request body is too large"),
        (b"x" * 1_000_000, "application/json", 413, "Request body is too large"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("path", ["/api/polls", "/api/polls/ZZZZZZ/state"])
@pytest.mark.proves("FR-014")
async def test_a_body_that_is_not_json_or_too_large_is_refused(
    rest: Rest, path: str, data: bytes, kind: str, status: int, error: str
) -> None:
    answer = await rest.request("POST", path, data=data, headers={"Content-Type": kind})
    assert answer.status == status
    if path == "/api/polls":
        assert answer.body["error"] == error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "Missing required fields: newState"),
        (None, "Invalid payload: expected an object"),
        ([], "Invalid payload: expected an object"),
        ({"newState": "ajar"}, "Invalid state: expected waiting, open or closed"),
        ({"newState": 1}, "Invalid state: expected waiting, open or closed"),
        *(
            ({"newState": "open", more: "ABC234"}, "Invalid payload: it has fields that are not known here")
            for more in ("more", "roomCode", "hostToken")  # the path names the room, a header the token
        ),
    ],
)
async def test_a_state_change_that_is_not_well_formed_is_refused(rest: Rest, poll: Poll, body: Any, error: str) -> None:
    headers = {**_JSON, "Authorization": f"Bearer {poll.host_token}"}
    answer = await rest.request("POST", f"/api/polls/{poll.code}/state", data=json.dumps(body), headers=headers)
    assert (answer.status, answer.body["error"]) == (400, error)


async def test_the_host_opens_and_closes_over_rest(rest: Rest) -> None:
    # Given a poll that waits
    poll = await rest.create()
    # When its host opens it, twice, and closes it
    opened = await rest.change(poll, "open")
    again = await rest.change(poll, "open")
    closed = await rest.change(poll, "closed")
    # Then each answer tells both states, and a repeat changes nothing
    states = [(answer.body["previousState"], answer.body["state"]) for answer in (opened, again, closed)]
    assert states == [("waiting", "open"), ("open", "open"), ("open", "closed")]
    assert (await rest.read(poll))["state"] == "closed"


@pytest.mark.proves("FR-013", "US2.3")
@pytest.mark.parametrize("token", [None, "", "nonsense", "other"])
async def test_nobody_else_changes_the_state_or_exports(rest: Rest, poll: Poll, token: str | None) -> None:
    # Given a caller without this poll's token: with none, with nonsense, with the token of another poll
    if token == "other":
        token = (await rest.create()).host_token
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    # When it tries
    change = await rest.request("POST", f"/api/polls/{poll.code}/state", json={"newState": "closed"}, headers=headers)
    export = await rest.get(f"/api/polls/{poll.code}/results.csv", headers=headers)
    # Then it is told who may
    assert (change.status, change.body["error"]) == (403, "Only host can change poll state")
    assert export.status == 403
    assert (await rest.read(poll))["state"] == "open"


async def test_the_export_has_one_row_per_participant(rest: Rest, poll: Poll, new_browser: NewBrowser) -> None:
    # Given two voters, one of whom changes her mind, and somebody whose name looks like a formula
    for name, options in (("Ada", [0, 2]), ("Bo", [1]), ("-Cy", [1])):
        voter: Browser = await new_browser().connect()
        joined = await voter.join(poll.code, name)
        for option in options:
            assert (await voter.vote(poll.code, joined, option, commandId=str(option)))["success"]
            await voter.hears("vote-recorded", commandId=str(option))
    # When the host exports
    answer = await rest.get(
        f"/api/polls/{poll.code}/results.csv", headers={"Authorization": f"Bearer {poll.host_token}"}
    )
    # Then each has one row with the last choice
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["nickname", "option", "first vote", "last vote"]
    chosen = {row[0]: row[1] for row in rows[1:]}
    assert chosen == {"Ada": "Option 2", "Bo": "Option 1", "'-Cy": "Option 1"}
    assert all(row[2] <= row[3] for row in rows[1:])
    assert "attachment" in answer.headers["content-disposition"]


async def test_the_json_export_has_everybody_also_who_has_not_voted(
    rest: Rest, poll: Poll, new_browser: NewBrowser
) -> None:
    # Given one who has voted, and one who has only joined
    for name, options in (("Ada", [2]), ("Bo", [])):
        voter: Browser = await new_browser().connect()
        joined = await voter.join(poll.code, name)
        for option in options:
            assert (await voter.vote(poll.code, joined, option, commandId="c"))["success"]
            await voter.hears("vote-recorded", commandId="c")

    # When the host exports, until the registration is stored as well
    async def names() -> bool:
        return len((await exported(rest, poll))["participants"]) == 2

    await eventually(names, "both participants")
    # Then both are there
    answer = await exported(rest, poll)
    people = {person["nickname"]: person for person in answer["participants"]}
    assert (answer["roomCode"], answer["success"]) == (poll.code, True)
    assert (people["Ada"]["optionIndex"], people["Ada"]["option"]) == (2, "Option 2")
    assert people["Ada"]["firstVotedAt"] == people["Ada"]["lastVotedAt"] is not None
    assert people["Bo"] == {
        "nickname": "Bo",
        "optionIndex": None,
        "option": None,
        "firstVotedAt": None,
        "lastVotedAt": None,
    }


async def exported(rest: Rest, poll: Poll) -> dict[str, Any]:
    answer = await rest.get(
        f"/api/polls/{poll.code}/results.json", headers={"Authorization": f"Bearer {poll.host_token}"}
    )
    assert answer.status == 200
    return answer.body


@pytest.mark.proves("FR-018", "US3.5")
async def test_health_names_every_dependency(rest: Rest, node_urls: list[str]) -> None:
    for url in node_urls:
        answer = await rest.get("/api/health", url=url)
        assert answer.status == 200
        assert answer.body["status"] == "healthy", answer.text
        assert (await rest.get("/api/health/ready", url=url)).body == {"ready": True}
        assert (await rest.get("/api/health/live", url=url)).body == {"alive": True}


@pytest.mark.proves("FR-018")
async def test_health_asks_once_a_second_however_many_want_to_know(rest: Rest, node_urls: list[str]) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(*(rest.get("/api/health", url=node_urls[0]) for _ in range(50)))
    took_s = time.monotonic() - began
    asked = {answer.body["dependencies"]["redis"]["responseTime"] for answer in answers}
    assert len(asked) <= took_s + 1
    # And it asks again
    await eventually(lambda: asks_again(rest, node_urls[0], asked), "a newer answer")


async def asks_again(rest: Rest, url: str, asked: set[float]) -> bool:
    answer = await rest.get("/api/health", url=url)
    return answer.body["dependencies"]["redis"]["responseTime"] not in asked


@pytest.mark.proves("FR-016")
async def test_every_answer_has_a_correlation_id_of_its_own(rest: Rest) -> None:
    answers = await asyncio.gather(*(rest.get("/nothing") for _ in range(20)))
    ids = {answer.body["correlationId"] for answer in answers}
    assert len(ids) == 20
    assert {answer.headers["x-correlation-id"] for answer in answers} == ids
