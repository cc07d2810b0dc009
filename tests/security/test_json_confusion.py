"""JSON that means one thing to one reader and another to the next: refused, or read in one way everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.security.conftest import Audited, GuardedNode
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
JSON = {"Content-Type": "application/json"}
HOSTILE_KEYS = ["__proto__", "constructor", "prototype", "__class__", "toString", "roomcode", "roomCode\\u0000", ""]
# JSON texts that a loose reader might take for the right value.
NOT_A_TEXT = ["0", "true", "[%s]", "[]", "{}", '{"toString":%s}', '{"length":6}']
NOT_AN_INDEX = [
    '"0"', '"0x0"', '" 0"', "[0]", "true", "false", "{}", "-0.0", "0.5", "1e0", "-1", "32768", "9223372036854775808",
    "18446744073709551616", "1" + "0" * 400, "NaN", "Infinity", "1e999", "null", '""',
]  # fmt: skip


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


@pytest.mark.proves("FR-008", "FR-012")
@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_fields_that_are_not_known_are_refused_everywhere(
    rest: Rest, node: GuardedNode, address: str, audited: Audited, key: str
) -> None:
    poll = await rest.open_poll()
    more = f'"{key}":{{"role":"host","success":true}}'
    codes = []
    async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
        for event, fields in (
            ("join", f'"roomCode":"{poll.code}"'),
            ("join-room", f'"roomCode":"{poll.code}","nickname":"Ada"'),
            ("submit-vote", f'"roomCode":"{poll.code}","participantId":"x","optionIndex":0'),
            ("change-poll-state", f'"roomCode":"{poll.code}","newState":"closed","hostToken":"{poll.host_token}"'),
        ):
            codes.append((await socket.refusal(event, f"{{{fields},{more}}}"))["code"])
    headers = {**JSON, FORWARDED: address, "Authorization": f"Bearer {poll.host_token}"}
    for path, fields in (
        ("/api/polls", '"question":"?","options":["a","b"]'),
        (f"/api/polls/{poll.code}/state", '"newState":"closed"'),
    ):
        answer = await rest.request("POST", path, url=node.url, data=f"{{{fields},{more}}}", headers=headers)
        codes.append(answer.body["code"])
    assert codes == ["unknown_field"] * 6
    assert (await rest.read(poll))["state"] == "open"
    await audited("invalid_input", address=address, action="unknown_field")


@pytest.mark.proves("FR-008", "FR-012")
async def test_nothing_but_a_text_is_a_text(
    rest: Rest, node: GuardedNode, new_address: Callable[[], str], audited: Audited
) -> None:
    poll = await rest.open_poll()
    good = {"roomCode": f'"{poll.code}"', "nickname": '"Ada"', "newState": '"closed"', "hostToken": '"x"'}
    good |= {"participantId": '"x"', "optionIndex": "0", "participantToken": '"x"', "commandId": '"x"'}
    for event, fields in (
        ("join", ("roomCode", "hostToken")),
        ("join-room", ("roomCode", "nickname", "participantToken")),
        ("submit-vote", ("roomCode", "participantId", "commandId")),
        ("change-poll-state", ("roomCode", "newState", "hostToken")),
    ):
        address = new_address()
        async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
            for field in fields:
                required = {"roomCode", "nickname", "newState", "participantId", "optionIndex"} & {*fields}
                required |= {"optionIndex"} if event == "submit-vote" else set()
                for wrong in NOT_A_TEXT:
                    texts = {name: good[name] for name in required} | {field: wrong.replace("%s", good[field])}
                    payload = "{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}"
                    refusal = await socket.refusal(event, payload)
                    assert refusal["code"].startswith("invalid_"), (event, payload, refusal)
        await audited("invalid_input", address=address)
    now = await rest.read(poll)
    assert (now["state"], now["participantCount"], sum(now["votes"])) == ("open", 0, 0)


@pytest.mark.proves("FR-008", "FR-012")
async def test_nothing_but_a_whole_number_of_an_option_is_a_vote(
    rest: Rest, node: GuardedNode, address: str, audited: Audited
) -> None:
    poll = await rest.open_poll()
    async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
        joined = await socket.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
        vote = f'"roomCode":"{poll.code}","participantId":"{joined["participantId"]}","optionIndex":'
        for wrong in (*NOT_AN_INDEX, "3", "32767"):
            refusal = await socket.refusal("submit-vote", f"{{{vote}{wrong}}}")
            assert refusal["code"] in ("invalid_option", "missing_fields", "malformed_packet"), (wrong, refusal)
        # The first that is one counts, and nothing before it has
        assert (await socket.call("submit-vote", json.loads(f"{{{vote}2}}")))["success"]
        await socket.receive('42["vote-recorded"')
    await eventually(lambda: _votes(rest, poll.code, [0, 0, 1]), "the vote in the totals")
    await audited("invalid_input", address=address, action="invalid_option")


@pytest.mark.proves("FR-008", "FR-012")
@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ('{"roomCode":["ABC234"],"participantToken":"x"}', "invalid_room_code"),
        ('{"roomCode":"ABC234","participantToken":{"toString":"x"}}', "invalid_payload"),
        ('{"roomCode":"ABC234","participantToken":"' + "x" * 3_000 + '"}', "invalid_payload"),
        ('{"roomCode":"ABC234","__proto__":{}}', "unknown_field"),
    ],
)
async def test_a_handshake_that_means_something_else_connects_as_nobody_and_is_on_record(
    node: GuardedNode, address: str, audited: Audited, auth: str, code: str
) -> None:
    async with raw_socket(node.url, connect=False, headers={FORWARDED: address}) as socket:
        await socket.send(f"40{auth}")
        await socket.receive("40{")
        await audited("invalid_input", address=address, action=code)
        assert (await socket.refusal("join", '"ZZZZZZ"'))["error"] == "Poll not found"


@pytest.mark.proves("FR-008")
@pytest.mark.parametrize("auth", ['{"roomCode":"ABC234","viewer":true}', '{"roomCode":"ABC234","hostToken":"x"}', "{}"])
async def test_what_our_own_pages_say_in_the_handshake_is_no_offence(node: GuardedNode, auth: str) -> None:
    before = node.log.read_text().count('"resume_refused"')
    async with raw_socket(node.url, connect=False) as socket:
        await socket.send(f"40{auth}")
        await socket.receive("40{")
    assert node.log.read_text().count('"resume_refused"') == before


@pytest.mark.proves("FR-008")
async def test_of_a_key_that_comes_twice_the_last_counts_for_every_reader(
    rest: Rest, new_browser: NewBrowser, node: GuardedNode
) -> None:
    # Given a poll whose question came twice
    twice = '{"question":"First?","question":"Last?","options":["x","y"],"options":["a","b"]}'
    created = await rest.request("POST", "/api/polls", data=twice, headers=JSON)
    body = created.body
    assert (body["question"], body["options"]) == ("Last?", ["a", "b"])
    host = {"Authorization": f"Bearer {body['hostToken']}"}
    opening = '{"newState":"closed","newState":"open"}'
    answer = await rest.request("POST", f"/api/polls/{body['roomCode']}/state", data=opening, headers={**host, **JSON})
    assert answer.body["state"] == "open"
    async with raw_socket(node.url) as socket:
        joined = await socket.call("join-room", {"roomCode": body["roomCode"], "nickname": "Ada"})
        mine = f'"participantId":"{joined["participantId"]}"'
        # When a vote by the lane (exact room code) and one by the ordinary way (lower case) name two options
        for code in (body["roomCode"], body["roomCode"].lower()):
            number = socket.numbered()
            fields = f'"roomCode":"ZZZZZZ","roomCode":"{code}",{mine},"optionIndex":0,"optionIndex":1'
            await socket.send(f'42{number}["submit-vote",{{{fields}}}]')
            # Then both are for the last
            assert (await socket.answer("submit-vote", number))["success"]
        await socket.receive('42["vote-recorded",{"optionIndex":1')
        assert not [packet for packet in socket.packets if '"vote-recorded",{"optionIndex":0' in packet]
    await eventually(lambda: _votes(rest, body["roomCode"], [0, 1]), "the vote in the totals")


@pytest.mark.proves("FR-008", "FR-012", "FR-014", "US2.4")
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ('"' + "x" * 17_000 + '"', "payload_too_large"),
        ("[" * 8_000 + "]" * 8_000, "malformed_packet"),
        ('{"a":' * 2_000 + "1" + "}" * 2_000, "malformed_packet"),
        (json.dumps({"roomCode": "ABC234", "nickname": "x" * 10_000}), "invalid_nickname"),
        (json.dumps({"roomCode": "ABC234", "nickname": "A", "participantToken": "x" * 3_000}), "invalid_payload"),
        ('{"roomCode":"ABC234","nickname":"\\ud800"}', "malformed_packet"),
        ('{"roomCode":"ABC234","nickname":"\\udc00\\ud800"}', "malformed_packet"),
        ('{"roomCode":"ABC234","nickname":"A",}', "malformed_packet"),
        ("{'roomCode':'ABC234'}", "malformed_packet"),
        ('{"roomCode":"ABC234"/**/,"nickname":"A"}', "malformed_packet"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
async def test_what_is_too_large_too_deep_or_no_json_is_refused(
    node: GuardedNode, address: str, audited: Audited, payload: str, code: str
) -> None:
    async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
        assert (await socket.refusal("join-room", payload))["code"] == code
        row = await audited("invalid_input", address=address, action=code)
        assert row["outcome"] == "refused"
        # And the connection is of use as before
        assert (await socket.refusal("join", '"ZZZZZZ"'))["error"] == "Poll not found"


@pytest.mark.proves("FR-008", "FR-012", "FR-014")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"question":"?","options":["a","b"],"x":"' + b"x" * 100_000 + b'"}', 413, "payload_too_large"),
        (b"[" * 40_000 + b"]" * 40_000, 400, "invalid_json"),
        (b'{"question":"\\ud800","options":["a","b"]}', 400, "invalid_json"),
        (b'{"question":"\xff","options":["a","b"]}', 400, "invalid_json"),
        (b'\xef\xbb\xbf{"question":"?","options":["a","b"]}', 400, "invalid_json"),
        (b'{"question":NaN,"options":["a","b"]}', 400, "invalid_json"),
        (b'{"question":["?"],"options":["a","b"]}', 400, "invalid_question"),
        (b'{"question":"?","options":{"0":"a","1":"b","length":2}}', 400, "invalid_options"),
        (b'{"question":"?","options":["a",["b"]]}', 400, "invalid_options"),
        (b'{"question":"?","options":["a","b\\u0000"]}', 400, "invalid_characters"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, bytes) else None,
)
async def test_a_body_that_means_something_else_creates_no_poll(
    rest: Rest, node: GuardedNode, address: str, audited: Audited, body: bytes, status: int, code: str
) -> None:
    answer = await rest.request("POST", "/api/polls", url=node.url, data=body, headers={**JSON, FORWARDED: address})
    assert (answer.status, answer.body["code"]) == (status, code)
    row = await audited("invalid_input", address=address, action=code)
    assert row["correlation_id"] == answer.body["correlationId"]


@pytest.mark.proves("FR-008", "FR-012", "FR-014")
async def test_binary_events_are_refused_with_their_head_and_their_attachments_passed_over(
    rest: Rest, node: GuardedNode, address: str, audited: Audited
) -> None:
    poll = await rest.open_poll()
    async with raw_socket(node.url, headers={FORWARDED: address}) as socket:
        for head, attachments in (
            ('51-%d["join-room",{"_placeholder":true,"num":0}]', 1),
            ('51-%d["join-room",{"_placeholder":true,"num":0}]', 0),  # never come
            ('5999999999-%d["join-room",{"_placeholder":true,"num":0}]', 3),
            ('50-%d["join-room",{"_placeholder":true,"num":7}]', 1),
        ):
            number = socket.numbered()
            await socket.send("4" + head % number)
            for _ in range(attachments):
                await socket.send(b"\x00" * 60_000)
            assert (await socket.answer("join-room", number))["code"] == "invalid_payload"
        await _still_answers(socket, poll.code)
    await audited("invalid_input", address=address, action="invalid_payload")


async def _votes(rest: Rest, code: str, expected: list[int]) -> bool:
    votes: list[int] = (await rest.get(f"/api/polls/{code}")).body["votes"]
    assert sum(votes) <= 1
    return votes == expected


async def _still_answers(socket: RawSocket, code: str) -> None:
    assert (await socket.call("join-room", {"roomCode": code, "nickname": "Ada"}))["success"]
