"""The lane for submit-vote: from the parsed frame straight into the vote buffer, and acks straight out again.

Takes only what is right: a decodable vote of the socket's own participant in an open poll, within the limits. Whatever
else comes goes the ordinary way, which knows every refusal and its words.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import msgspec

from models.runtime.clock import now_us
from models.wire.commands import CastVote, OptionIndex
from socket_tier.choices import Choices
from socket_tier.payloads import command_id_type
from socket_tier.refusals import BrokerUnavailable, Refused, unexpected
from socket_tier.rooms import Member, Room
from socket_tier.sessions import Session
from socket_tier.shedding import Shedding
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.frames import text_frame
from socket_tier.vote_buffer import VoteBuffer

_MOST_ACK_DIGITS = 9
CommandId = TypeVar("CommandId", bound=str)


class LaneVote(msgspec.Struct, Generic[CommandId], frozen=True, forbid_unknown_fields=True):
    """``payloads.SubmitVote`` before its room code is upper-cased and its id read: here both must be exact."""

    roomCode: str
    participantId: str
    optionIndex: OptionIndex
    commandId: CommandId | None = None


class VoteDecoder:
    """``decoder(data)`` is the ack's number and the vote; None for whatever the ordinary way must look at."""

    def __init__(self, max_command_id_chars: int) -> None:
        command_id = command_id_type(max_command_id_chars)
        vote = LaneVote[command_id]  # type: ignore[valid-type]  # known at run time, from the settings
        self._decode = msgspec.json.Decoder(tuple[Literal["submit-vote"], vote]).decode

    def __call__(self, data: bytes) -> tuple[bytes, LaneVote[str]] | None:
        if data[:2] != b"42":
            return None
        start = data.find(b"[", 2, 3 + _MOST_ACK_DIGITS)
        ack = data[2:start]
        if not ack.isdigit():
            return None
        try:
            return ack, self._decode(data[start:])[1]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


_encode = msgspec.json.Encoder().encode
# Of JSON's special characters room codes and times hold none, and a command id comes encoded.
_ACCEPTED = b'43%b[{"success":true,"status":"queued"}]'
_ACCEPTED_COMMAND = b'43%b[{"success":true,"status":"queued","commandId":%b}]'
_RECORDED = b'42["vote-recorded",{"optionIndex":%d,"roomCode":"%b","recordedAt":"%b"}]'
_RECORDED_COMMAND = b'42["vote-recorded",{"optionIndex":%d,"roomCode":"%b","recordedAt":"%b","commandId":%b}]'


class LaneReceipt:
    """Answers one voter of the lane. ``command``: the client's command id as JSON, empty without one."""

    __slots__ = ("_ack", "_command", "_lane", "_member", "_room", "_socket", "_vote", "arrived", "sid")

    answers_itself = True

    def __init__(
        self,
        lane: "VoteLane",
        socket: DirectSocket,
        sid: str,
        ack: bytes,
        room: Room,
        member: Member,
        vote: CastVote,
        command: bytes,
    ) -> None:
        self.sid = sid
        self._lane = lane
        self._socket = socket
        self._ack = ack
        self._room = room
        self._member = member
        self._vote = vote
        self._command = command
        self.arrived = time.perf_counter()

    @property
    def room_code(self) -> str:
        return self._room.poll.room_code

    @property
    def command_id(self) -> str | None:
        return msgspec.json.decode(self._command) if self._command else None

    @property
    def correlation_id(self) -> str:
        return ""  # a vote that names one takes the ordinary way

    def settle(self, error: BaseException | None, correlation: str = "") -> None:
        """The batch is confirmed, or has failed."""
        if error is not None:
            refusal = error if isinstance(error, Refused) else unexpected()
            frame = text_frame(b"43%b%b" % (self._ack, _encode([refusal.body(correlation)])))
        else:
            vote = self._vote
            first = self._member.choice is None
            if self._member.chose(vote):
                if first and self._room.vote_reveals:
                    self._lane.on_first_vote(self._room, self._member)
                self._lane.choices.note(self._room.poll.room_code, self._member, vote)
            if self._command:
                frame = text_frame(_ACCEPTED_COMMAND % (self._ack, self._command))
            else:
                frame = text_frame(_ACCEPTED % self._ack)
        self._socket.push(frame)

    def recorded(self, recorded_at: str, frames: dict[Any, bytes]) -> bool:
        """Tell the voter that the vote is committed. ``frames`` keeps what is the same for others of the batch."""
        if self._command:
            self._socket.push_soon(self._recorded_frame(recorded_at))
            return True
        same = (self._room, self._vote.option_index)
        frame = frames.get(same)
        if frame is None:
            frame = frames[same] = self._recorded_frame(recorded_at)
        self._socket.push_soon(frame)
        return True

    def _recorded_frame(self, recorded_at: str) -> bytes:
        about = (self._vote.option_index, self._room.poll.room_code.encode(), recorded_at.encode())
        if self._command:
            return text_frame(_RECORDED_COMMAND % (*about, self._command))
        return text_frame(_RECORDED % about)


class VoteLane:
    """``VoteLane(...)(socket, data)`` is True when the message was a vote and is on its way.

    ``on_first_vote``: told of a member's first accepted vote in a poll whose totals that vote reveals.
    """

    def __init__(
        self,
        buffer: VoteBuffer,
        choices: Choices,
        shedding: Shedding,
        max_command_id_chars: int,
        on_first_vote: Callable[[Room, Member], None],
    ) -> None:
        self.on_first_vote = on_first_vote
        self._buffer = buffer
        self._shedding = shedding
        self._decode = VoteDecoder(max_command_id_chars)
        self.choices = choices

    def __call__(self, socket: DirectSocket, data: bytes) -> bool:
        session: Session | None = socket.voter
        if session is None or (decoded := self._decode(data)) is None:
            return False
        ack, request = decoded
        entered = session.participants.get(request.roomCode)
        if entered is None:
            return False
        room, member = entered
        in_address, in_room = session.address_votes, room.votes
        at_us = now_us()
        opened_at_us = room.open_since_us(at_us)
        if (
            opened_at_us is None
            or request.participantId != member.wire_id
            or request.optionIndex >= len(room.poll.options)
            or (room.vote_stands and member.choice is not None)
            or (in_address.left < 1 and not in_address.wake())
            or (in_room.left < 1 and not in_room.wake())
            or (member.votes is not None and member.votes.wait_s(time.monotonic()) > 0)
        ):
            return False
        in_address.left -= 1
        in_room.left -= 1
        vote = member.cast(room.poll.poll_id, request.optionIndex, at_us, opened_at_us)
        command = b"" if request.commandId is None else _encode(request.commandId)
        receipt = LaneReceipt(self, socket, session.sid, ack, room, member, vote, command)
        try:
            self._shedding.vote()
            if room.unheard:
                raise BrokerUnavailable()
            self._buffer.add(vote, receipt)
        except Refused as refusal:
            self._buffer.refused(receipt, refusal)
        return True
