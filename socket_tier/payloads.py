"""What browsers send, checked once at the edge: its shape and its types, then each field with its own words.

What a type can say msgspec checks; the limits come from the settings. Texts that the MVP client shows are fixed by the
wire contract. An absent field and null are the same, in events an empty text too; of a key that comes twice the last
counts, as in browsers.
"""

import unicodedata
from functools import cache
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from models.runtime.settings import Settings
from models.wire.commands import OptionIndex
from models.wire.polls import USUAL_RULES, PollRules, PollState, Results
from socket_tier.refusals import Invalid

# Python's $ also matches before a line feed at the end; \Z does not.
_RoomCode = Annotated[str, Meta(pattern=r"^[2-9A-HJ-NP-Z]{6}\Z")]
_ParticipantId = Annotated[str, Meta(max_length=100)]
_NotEmpty = Annotated[str, Meta(min_length=1)]
# Postgres has no NUL in a text. All else is kept as typed; what has no UTF-8 the JSON decoder has refused.
_Storable = Annotated[str, Meta(pattern=r"^[^\x00]*\Z")]
_NICKNAME_PUNCTUATION = frozenset(" _-.'")
_EMOJI_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
# Unicode calls these letters and symbols, and shows nothing: a name of them would look like none, or like another's.
_BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


class Payload(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An object that a browser sends. Its fields are all that there may be."""


class JoinRoom(Payload, frozen=True):
    room_code: str
    nickname: str
    participant_token: str | None = None


class JoinHost(Payload, frozen=True):
    """``viewer``: wants to look on and never to control."""

    room_code: str
    host_token: str | None = None
    viewer: bool = False


class SubmitVote(Payload, frozen=True):
    """``participant_id`` is None when what was sent is no id at all, so nobody's."""

    room_code: str
    participant_id: UUID | None
    option_index: int
    command_id: str | None = None


class ChangePollState(Payload, frozen=True):
    room_code: str
    new_state: PollState
    host_token: str | None = None


class NewState(Payload, frozen=True):
    """The body of ``change-poll-state``'s twin: the path names the room, a header the token."""

    new_state: PollState


class Handshake(Payload, frozen=True):
    """What a page says of itself when it connects: a room and a participant's token make the socket that participant.

    Hosts and viewers say what they are as well, and still join by an event.
    """

    room_code: str | None = None
    participant_token: str | None = None
    host_token: str | None = None
    viewer: bool = False


class NewPoll(Payload, frozen=True):
    question: str
    options: tuple[str, ...]
    rules: PollRules = USUAL_RULES


class NewRules(Payload, frozen=True):
    """``PollRules`` as a page writes them; each may be missing."""

    results: Results | None = None
    vote_change: bool | None = None
    close_after_s: int | None = None
    max_participants: int | None = None


def command_id_type(max_chars: int) -> Any:
    """The msgspec type of a client's own id for a command: short, without control characters."""
    return Annotated[str, Meta(min_length=1, max_length=max_chars, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


def room_code(value: object) -> str:
    """Upper-cased room code.

    :raises Invalid: not six characters of the alphabet
    """
    typed = value.strip().upper() if isinstance(value, str) else value
    return _fitting(typed, _RoomCode, "Invalid room code format", "invalid_room_code")


class Payloads:
    """Reads what browsers send, within the limits of the settings. Every method raises ``Invalid``."""

    def __init__(self, settings: Settings) -> None:
        poll = settings.poll
        self._poll = poll
        self._max_participants = settings.room.max_participants
        self._question: Any = Annotated[str, Meta(max_length=poll.question_max)]
        self._options: Any = Annotated[list[Any], Meta(min_length=poll.options_min, max_length=poll.options_max)]
        self._option: Any = Annotated[str, Meta(min_length=1, max_length=poll.option_max)]
        self._nickname: Any = Annotated[str, Meta(min_length=1, max_length=poll.nickname_max)]
        # Signed tokens are printable ASCII: what isn't was never one of ours.
        self._token: Any = Annotated[str, Meta(max_length=settings.node.max_token_chars, pattern=r"^[!-~]*\Z")]
        self._command_id = command_id_type(settings.node.max_command_id_chars)

    def join_room(self, payload: object) -> JoinRoom:
        fields = _fields(payload, JoinRoom)
        return JoinRoom(
            room_code(fields["roomCode"]),
            self.nickname(fields["nickname"]),
            self._optional(fields, "participantToken", self._token),
        )

    def join_host(self, payload: object) -> JoinHost:
        """A bare room code, or an object."""
        if isinstance(payload, str):
            return JoinHost(room_code(payload))
        fields = _fields(payload, JoinHost)
        return JoinHost(
            room_code(fields["roomCode"]),
            self._optional(fields, "hostToken", self._token),
            self._optional(fields, "viewer", bool) or False,
        )

    def submit_vote(self, payload: object) -> SubmitVote:
        fields = _fields(payload, SubmitVote)
        return SubmitVote(
            room_code(fields["roomCode"]),
            _uuid(_fitting(fields["participantId"], _ParticipantId, "Invalid participantId")),
            _fitting(fields["optionIndex"], OptionIndex, "Invalid option index", "invalid_option"),
            self._optional(fields, "commandId", self._command_id),
        )

    def change_poll_state(self, payload: object) -> ChangePollState:
        fields = _fields(payload, ChangePollState)
        return ChangePollState(
            room_code(fields["roomCode"]),
            _state(fields["newState"]),
            self._optional(fields, "hostToken", self._token),
        )

    def new_state(self, payload: object) -> PollState:
        return _state(_fields(payload, NewState)["newState"])

    def handshake(self, payload: object) -> Handshake:
        fields = _fields(payload, Handshake)
        named = fields.get("roomCode")
        return Handshake(
            None if named is None or named == "" else room_code(named),
            self._optional(fields, "participantToken", self._token),
            self._optional(fields, "hostToken", self._token),
            self._optional(fields, "viewer", bool) or False,
        )

    def new_poll(self, payload: object) -> NewPoll:
        fields = _fields(payload, NewPoll)
        too_long = f"Question must be {self._poll.question_max} characters or less"
        question = _fitting(_trimmed(fields["question"]), _NotEmpty, "Question must not be empty", "invalid_question")
        _fitting(question, self._question, too_long, "invalid_question")
        _fitting(question, _Storable, "Invalid characters in question", "invalid_characters")
        how_many = f"Options array must contain {self._poll.options_min}-{self._poll.options_max} elements"
        listed = _fitting(fields["options"], self._options, how_many, "invalid_options")
        options = tuple(self._an_option(option) for option in listed)
        if len({option.casefold() for option in options}) != len(options):
            raise Invalid("Options must be distinct", "invalid_options")
        return NewPoll(question, options, self._rules(fields.get("rules")))

    def _rules(self, value: object) -> PollRules:
        if value is None:
            return USUAL_RULES
        fields = _fields(value, NewRules)
        results = fields.get("results")
        change = fields.get("voteChange")
        return PollRules(
            Results.ALWAYS
            if results is None
            else _fitting(
                results, Results, "Invalid results: expected always, after-vote, after-close or host", "invalid_rules"
            ),
            True if change is None else _fitting(change, bool, "Invalid voteChange", "invalid_rules"),
            self._number(fields, "closeAfterS", self._poll.close_after_max_s),
            self._number(fields, "maxParticipants", self._max_participants),
        )

    @staticmethod
    def _number(fields: dict[str, Any], name: str, most: int) -> int | None:
        value = fields.get(name)
        if value is None:
            return None
        number: int = _fitting(value, Annotated[int, Meta(ge=1, le=most)], f"{name} must be 1-{most}", "invalid_rules")
        return number

    def nickname(self, value: object) -> str:
        """Trimmed, otherwise as typed."""
        length = f"Nickname must be 1-{self._poll.nickname_max} characters"
        name: str = _fitting(_trimmed(value), self._nickname, length, "invalid_nickname")
        if not all(_allowed_in_nickname(character) for character in name) or not any(map(_visible, name)):
            raise Invalid("Nickname may contain letters, digits, emoji, spaces and _ - . ' only", "invalid_nickname")
        return name

    def _an_option(self, value: object) -> str:
        length = f"Each option must be 1-{self._poll.option_max} characters"
        option: str = _fitting(_trimmed(value), self._option, length, "invalid_options")
        return _fitting(option, _Storable, "Invalid characters in option", "invalid_characters")

    @staticmethod
    def _optional(fields: dict[str, Any], name: str, kind: Any) -> Any:
        value = fields.get(name)
        return None if value is None or value == "" else _fitting(value, kind, f"Invalid {name}")


def _fitting(value: Any, kind: Any, error: str, code: str = "invalid_payload") -> Any:
    """The value, if it is of this type. Nothing is converted but a text to the enumeration that it names.

    :raises Invalid: it is not; with these words
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise Invalid(error, code) from None


def _fields(payload: object, kind: type[Payload]) -> dict[str, Any]:
    """The payload's own fields: no others, and none missing that is required.

    :raises Invalid:
    """
    if not isinstance(payload, dict):
        raise Invalid("Invalid payload: expected an object", "invalid_payload")
    known, required = _names(kind)
    if payload.keys() - known:
        raise Invalid("Invalid payload: it has fields that are not known here", "unknown_field")
    if any(payload.get(name) is None or (payload[name] == "" and kind is not NewPoll) for name in required):
        raise Invalid(f"Missing required fields: {_listed(required)}", "missing_fields")
    return payload


@cache
def _names(kind: type[Payload]) -> tuple[frozenset[str], list[str]]:
    """The names of all fields on the wire, and of those that must be there."""
    fields = msgspec.structs.fields(kind)
    return frozenset(field.encode_name for field in fields), [each.encode_name for each in fields if each.required]


def _listed(names: list[str]) -> str:
    """As the MVP's texts have it: a; a and b; a, b, and c."""
    *first, last = names
    return last if not first else f"{', '.join(first)}{',' if len(first) > 1 else ''} and {last}"


def _state(value: object) -> PollState:
    state: PollState = _fitting(value, PollState, "Invalid state: expected waiting, open or closed", "invalid_state")
    return state


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _allowed_in_nickname(character: str) -> bool:
    if character in _NICKNAME_PUNCTUATION or character == _EMOJI_JOINER or ord(character) in _SKIN_TONES:
        return True
    kind = unicodedata.category(character)
    return (kind[0] in "LMN" or kind == "So") and character not in _BLANK_LETTERS


def _visible(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] in "LN" or kind == "So"


def _uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None
