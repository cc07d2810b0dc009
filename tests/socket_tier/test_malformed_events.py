"""Whatever a browser sends: one clear answer, and the node lives on."""

import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.socket_tier.browsers import both_transports
from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Poll, Rest

pytestmark = both_transports
EVENTS = ("join", "join-room", "submit-vote", "change-poll-state")
NodePids = Callable[[], list[int | None]]

# JSON texts of one argument, wrong for every event.
PAYLOADS = {
    "null": "null",
    "true": "true",
    "number": "7",
    "minus one": "-1",
    "fraction": "1.5",
    "huge number": "9" * 400,
    "huge exponent": "1e999",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "text": '"text"',
    "empty text": '""',
    "empty array": "[]",
    "array": '[{"roomCode": "ABC234"}]',
    "empty object": "{}",
    "unknown fields": '{"roomCode": "ABC234", "__proto__": {"host": true}}',
    "NUL": r'"\u0000\u0000\u0000\u0000\u0000\u0000"',
    "half a surrogate pair": r'{"roomCode": "\ud800", "nickname": "\udfff"}',
    "a megabyte": '"' + "x" * 1_000_000 + '"',
    "deep and long": "[" * 10_000 + "]" * 10_000,
    "deep": "[" * 7_000 + "]" * 7_000,
    "deep object": '{"a":' * 2_000 + "1" + "}" * 2_000,
    "not JSON": '{"roomCode": ',
    "two values": "{} {}",
    "raw control character": '"\x01"',
}

# What a correct payload would have in each field; each is replaced by each of WRONG in turn.
FIELDS = {
    "join": {"roomCode": "ABC234", "hostToken": "x", "viewer": False},
    "join-room": {"roomCode": "ABC234", "nickname": "Ada", "participantToken": "x"},
    "submit-vote": {
        "roomCode": "ABC234",
        "participantId": "01a20b7a-53fc-77e9-87d1-41154368a728",
        "optionIndex": 0,
        "commandId": "x",
    },
    "change-poll-state": {"roomCode": "ABC234", "newState": "open", "hostToken": "x"},
}
WRONG = ["null", "true", "-1", "1.5", "1e999", "9" * 400, '""', "[]", "{}", '"\\u0000"', '"' + "x" * 10_000 + '"']
HARMLESS = {
    ("viewer", "true"),
    # An empty token is none, and a participant's token that is worth nothing keeps nobody out.
    *((field, wrong) for field in ("hostToken", "participantToken") for wrong in ("null", '""')),
    *(("participantToken", wrong) for wrong in WRONG if wrong.startswith('"') and len(wrong) < 2_000),
}


@pytest.fixture
async def socket(base_url: str) -> AsyncIterator[RawSocket]:
    async with raw_socket(base_url) as connected:
        yield connected


@pytest.fixture(autouse=True)
def same_processes(node_pids: NodePids) -> Iterator[None]:
    """No node dies of it."""
    before = node_pids()
    yield
    assert node_pids() == before


async def still_works(socket: RawSocket, rest: Rest, poll: Poll) -> None:
    """The same socket and the same node go on."""
    number = socket.numbered()
    await socket.send(f'42{number}["join-room",{json.dumps({"roomCode": poll.code, "nickname": "Ada"})}]')
    assert (await socket.answer("join-room", number))["success"]
    assert (await rest.get("/api/health/live")).status == 200


@pytest.mark.proves("FR-008", "FR-039", "US2.4")
@pytest.mark.parametrize("event", EVENTS)
async def test_every_wrong_payload_gets_one_clear_refusal(
    socket: RawSocket, rest: Rest, poll: Poll, event: str
) -> None:
    for name, payload in PAYLOADS.items():
        refusal = await socket.refusal(event, payload)
        assert not refusal["success"], name
        assert refusal["code"] != "internal_error", name
    await still_works(socket, rest, poll)


@pytest.mark.proves("FR-008")
@pytest.mark.parametrize("event", EVENTS)
async def test_every_wrong_field_gets_one_clear_refusal(socket: RawSocket, rest: Rest, poll: Poll, event: str) -> None:
    for field in FIELDS[event]:
        for wrong in WRONG:
            texts = {name: json.dumps(value) for name, value in FIELDS[event].items()} | {field: wrong}
            # The room exists, so that nothing but the field can be the reason.
            if field != "roomCode":
                texts["roomCode"] = json.dumps(poll.code)
            payload = "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"
            refusal = await socket.refusal(event, payload)
            assert (field, wrong) in HARMLESS or not refusal["success"], (field, wrong)
            assert refusal.get("code") != "internal_error", (field, wrong)
    number = socket.numbered()
    await socket.send(f'42{number}["join",{json.dumps(poll.code)}]')
    assert (await socket.answer("join", number))["success"]


@pytest.mark.parametrize("event", [*EVENTS, "no-such-event"])
async def test_arguments_that_are_missing_too_many_or_binary_are_refused(
    socket: RawSocket, rest: Rest, poll: Poll, event: str
) -> None:
    good = json.dumps({"roomCode": poll.code, "nickname": "Ada"})
    # No argument, two, and a hundred
    for arguments in ((), (good, good), (good,) * 100, ("{}", "null")):
        assert not (await socket.refusal(event, *arguments, settled_s=0.02))["success"]
    # A binary argument, with its attachment, and one whose attachment never comes
    for attachments in (1, 0):
        number = socket.numbered()
        await socket.send(f'451-{number}[{json.dumps(event)},{{"_placeholder":true,"num":0}}]')
        for _ in range(attachments):
            await socket.send(b"\x00\x01\x02")
        assert (await socket.answer(event, number, settled_s=0.05))["code"] == "invalid_payload"
    await still_works(socket, rest, poll)


@pytest.mark.parametrize(
    "packet",
    [
        "4",
        "42",
        "42[]",
        "42{}",
        "42null",
        "42[null]",
        "42[1,2]",
        '42["disconnect"]',
        '42["connect"]',
        '42["connect_error",{}]',
        '42["join-room"',
        "42[[[[[",
        '42["no-such-event"]',
        '42/elsewhere,["join-room",{}]',
        '42/elsewhere,1["join-room",{}]',
        "43[]",
        "4399[]",
        '430[{"success":true}]',
        "43",
        "43-1[]",
        "44{}",
        "45",
        "451-[]",
        "459999999-[]",
        '46["x"]',
        "47",
        "48",
        "40/elsewhere,",
        "40{}",
        "40null",
        '40{"token":' + "[" * 5_000 + "]" * 5_000 + "}",
        "4\x00",
        "42\u0664[]",
        '42999999999999999999999["join",null]',
        b"",
        b"\x04\x00\xff",
        b"x" * 100_000,
    ],
    ids=lambda packet: repr(packet)[:30],
)
async def test_a_packet_that_means_nothing_harms_nobody(
    base_url: str, rest: Rest, poll: Poll, packet: str | bytes
) -> None:
    # Given somebody who takes part on another socket
    async with raw_socket(base_url) as other, raw_socket(base_url) as socket:
        # When a packet comes that means nothing
        await socket.send(packet)
        # Then the other goes on, and so does this one, unless it was hung up on
        await still_works(other, rest, poll)
        if not socket.closed.is_set():
            refusal = await socket.refusal("join", '"ZZZZZZ"')
            assert refusal["error"] == "Poll not found"


@pytest.mark.parametrize("packet", ["0", "1", "3probe", "5", "6", "7", "9", "x", "", "2probe", "\x00", "💥"])
async def test_an_engine_packet_out_of_place_harms_nobody(base_url: str, rest: Rest, poll: Poll, packet: str) -> None:
    async with raw_socket(base_url) as other, raw_socket(base_url) as socket:
        await socket.send(packet)
        await still_works(other, rest, poll)


@pytest.mark.parametrize("packet", ['42["join",null]', '421["join",null]', '422["submit-vote",{}]', "41"])
async def test_an_event_before_the_connect_is_not_heard(base_url: str, rest: Rest, poll: Poll, packet: str) -> None:
    # Given a session that has not entered the namespace
    async with raw_socket(base_url, connect=False) as socket:
        # When it sends an event all the same
        await socket.send(packet)
        # Then it may still connect, and is answered from then on; or was hung up on
        await socket.send("40")
        try:
            await socket.receive("40")
        except AssertionError:
            assert socket.closed.is_set()
            return
        assert not (await socket.refusal("join", "null"))["success"]
        assert not [packet for packet in socket.packets if packet.startswith(("431[", "432["))][1:]


async def test_a_packet_beyond_all_measure_is_hung_up_on(base_url: str, rest: Rest, poll: Poll) -> None:
    async with raw_socket(base_url) as other, raw_socket(base_url) as socket:
        await socket.send('421["join","' + "x" * 2_000_000 + '"]')
        await socket.closed.wait()
        await still_works(other, rest, poll)


async def test_an_ack_is_not_asked_for_and_none_is_given(socket: RawSocket, rest: Rest, poll: Poll) -> None:
    for event in EVENTS:
        await socket.send(f"42[{json.dumps(event)},null]")
    await still_works(socket, rest, poll)
    assert len([packet for packet in socket.packets if packet.startswith("43")]) == 1
