"""The decoders, in process: whatever the bytes, each gives a value or its own refusal, and no other exception."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import msgspec
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketReader
from hypothesis import strategies as st

from models.runtime.settings import load
from models.runtime.tokens import HostToken, InvalidToken, ParticipantToken, Tokens
from models.wire.commands import ROUTES, CastVote, NodeHeartbeat, VoteBatch
from models.wire.envelope import wrap
from models.wire.notices import Notice
from models.wire.polls import PollState
from socket_tier.addresses import TrustedProxies, limited_as
from socket_tier.payloads import Payloads, SubmitVote
from socket_tier.refusals import Invalid
from socket_tier.transport import driver, engine
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.lane import VoteDecoder
from workers.encoder import CommandEncoder

Target = Callable[[bytes], None]

_SETTINGS = load()
_PAYLOADS = Payloads(_SETTINGS)
_VOTE = VoteDecoder(_SETTINGS.node.max_command_id_chars)
_TOKENS = Tokens(["k" * 32, "l" * 32], 3600)
_COMMANDS = {name: msgspec.json.Decoder(command) for command, (name, _) in ROUTES.items()}
_ENVELOPE = CommandEncoder()
_NOTICE = msgspec.json.Decoder(Notice)
_PROXIES = TrustedProxies(["127.0.0.0/8", "::1"])
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # JSON that is none: each caller refuses it


def vote_lane(data: bytes) -> None:
    """Whatever the lane takes for a vote, the ordinary way takes for the same vote."""
    decoded = _VOTE(data)
    if decoded is None:
        return
    ack, vote = decoded
    assert ack.isdigit()
    _, payload = msgspec.json.decode(data[data.index(b"[") :])
    try:
        same = _PAYLOADS.submit_vote(payload)
    except Invalid as refusal:
        # The lane leaves it to the room and the member whether code and id are right; both are compared there.
        assert refusal.code in ("invalid_room_code", "missing_fields") or "participantId" in refusal.message
        return
    given = None if not vote.commandId else vote.commandId
    assert (same.option_index, same.command_id) == (vote.optionIndex, given)


def payloads(data: bytes) -> None:
    """Each event's and each body's payload: a value within its limits, or a refusal in words."""
    try:
        value = msgspec.json.decode(data)
    except _NOT_DECODED:
        return
    for read in (
        _PAYLOADS.join_host, _PAYLOADS.join_room, _PAYLOADS.submit_vote, _PAYLOADS.change_poll_state,
        _PAYLOADS.new_poll, _PAYLOADS.new_state, _PAYLOADS.handshake, _PAYLOADS.nickname,
    ):  # fmt: skip
        try:
            result: Any = read(value)
        except Invalid as refusal:
            assert refusal.code
            assert refusal.message
        else:
            assert isinstance(result, msgspec.Struct | str | PollState)
            assert "\x00" not in str(result)
            if isinstance(result, SubmitVote):
                assert 0 <= result.option_index <= 32767


def engine_packets(data: bytes) -> None:
    """A WebSocket message, and a polling client's payload."""
    for read in (
        lambda: driver.decode(data.decode()),
        lambda: driver.decode(data),
        lambda: driver.decode_payload(data),
    ):
        try:
            read()
        except (ValueError, LookupError):
            continue


class _Socket:
    """Stands where a client's socket would; notes that it heard a pong."""

    busy = False
    lane = staticmethod(lambda socket, data: _VOTE(data) is not None)

    def schedule_ping(self) -> None:
        """Nothing is due here."""


class _Frames:
    """The frame parser as a node has it, fed in two pieces."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def __call__(self, data: bytes) -> None:
        queue = engine._LaneQueue(BaseProtocol(self._loop), 2**16, loop=self._loop)
        queue.direct = cast(DirectSocket, _Socket())
        reader = WebSocketReader(queue, 100_000, compress=False, decode_text=False)
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            ended, _rest = reader.feed_data(piece)
            if ended:
                assert queue.exception() is not None
                return


frames = _Frames()


def envelopes(data: bytes) -> None:
    """What a worker takes from a queue, and a node from its inbox."""
    try:
        fields = _ENVELOPE.decode(data)
    except _NOT_DECODED:
        fields = {"actor_name": "", "args": [data]}
    decoders = (
        [_COMMANDS[fields["actor_name"]]] if fields["actor_name"] in _COMMANDS else [_NOTICE, *_COMMANDS.values()]
    )
    for decoder in decoders:
        for argument in fields["args"]:
            try:
                decoder.decode(argument)
            except _NOT_DECODED:
                continue


def tokens(data: bytes) -> None:
    """A signature decides; what isn't signed by us is refused whatever it holds."""
    text = data.decode(errors="surrogateescape")
    for read in (_TOKENS.read_participant, _TOKENS.read_host, _TOKENS.read_browser):
        try:
            value: Any = read(text)
        except InvalidToken:
            continue
        assert value in (_ADA_TOKEN, _HOST_TOKEN, _ADA), value


def addresses(data: bytes) -> None:
    """X-Forwarded-For from anybody, through a trusted proxy."""
    lines = data.decode(errors="surrogateescape").splitlines()
    for address in (_PROXIES.client_address("127.0.0.1", lines), _PROXIES.client_address("192.0.2.1", lines)):
        assert limited_as(address)


TARGETS: dict[str, Target] = {
    "vote_lane": vote_lane,
    "payloads": payloads,
    "engine_packets": engine_packets,
    "frames": frames,
    "envelopes": envelopes,
    "tokens": tokens,
    "addresses": addresses,
}

_ADA = UUID(int=1)
_ADA_TOKEN, _HOST_TOKEN = ParticipantToken(1, _ADA, "Ada", 1), HostToken(1, 1)
_VOTE_TEXT = b'{"roomCode":"ABC234","participantId":"%b","optionIndex":1,"commandId":"c"}' % str(_ADA).encode()
SEEDS: dict[str, list[bytes]] = {
    "vote_lane": [
        b'421["submit-vote",' + text + b"]"
        for text in (
            _VOTE_TEXT,
            _VOTE_TEXT.replace(b"1,", b"-1,"),
            _VOTE_TEXT.replace(b"1,", b"40000,"),
            _VOTE_TEXT.replace(b"1,", b'1,"optionIndex":2,'),
            _VOTE_TEXT.replace(b'"c"', b'"' + b"c" * 65 + b'"'),
            _VOTE_TEXT.replace(b'"c"', b'"\\u0000"'),
            _VOTE_TEXT.replace(b"ABC234", b"abc234"),
        )
    ],
    "payloads": [
        _VOTE_TEXT,
        b'{"roomCode":"ABC234","nickname":"Ada","participantToken":"x"}',
        b'{"roomCode":"ABC234","newState":"open","hostToken":"x","viewer":true}',
        b'{"question":"Tea?","options":["Yes","No"]}',
        '"Zo\u0308 💥-_.\'"'.encode(),
    ],
    "engine_packets": [b'42["join",{}]', b"2probe\x1e3\x1e5", b"bAAEC\x1e6", b'd=4["x"]', b"4" + b"[" * 2000],
    "frames": [
        b"\x81\x85\x00\x00\x00\x00Hello", b"\x01\x82\x00\x00\x00\x00He\x80\x83\x00\x00\x00\x00llo",
        b"\x88\x82\x00\x00\x00\x00\x03\xe8", b"\x89\x80\x00\x00\x00\x00", b"\x82\xfe\x00\x80\x01\x02\x03\x04",
    ],
    "envelopes": [
        wrap(VoteBatch(_ADA, _ADA, (CastVote(1, _ADA, 0, 1, 1),)), "c")[1],
        wrap(NodeHeartbeat(_ADA, "n", 1))[1],
    ],
    "tokens": [
        text.encode()
        for text in (
            _TOKENS.sign_participant(_ADA_TOKEN),
            _TOKENS.sign_host(_HOST_TOKEN),
            _TOKENS.sign_browser(_ADA),
        )
    ],
    "addresses": [b"198.51.100.7, 127.0.0.1", b"[2001:db8::1]:80, ::1", b"::ffff:1.2.3.4%eth0"],
}  # fmt: skip


def samples_bent(name: str) -> st.SearchStrategy[bytes]:
    """Samples of one target, cut, spliced and with bytes changed."""
    samples = SEEDS[name]
    pieces = st.sampled_from([sample[:cut] for sample in samples for cut in (len(sample) // 2, len(sample))])
    spliced = st.lists(pieces | st.binary(max_size=12) | st.text(max_size=8).map(str.encode), max_size=6).map(b"".join)
    mutated = st.builds(_changed, st.sampled_from(samples), st.integers(0, 400), st.integers(0, 255))
    return st.sampled_from(samples) | spliced | mutated | st.binary(max_size=200)


def _changed(sample: bytes, at: int, byte: int) -> bytes:
    at %= len(sample)
    return sample[:at] + bytes([byte]) + sample[at + 1 :]
