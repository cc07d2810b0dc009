"""What browsers send, checked once at the edge. Texts that the MVP client shows are fixed by the wire contract."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from models.runtime.settings import PollSettings
from models.wire.polls import PollState
from socket_tier.refusals import Invalid

_ROOM_CODE = re.compile(r"[23456789A-HJ-NP-Z]{6}")
_STATES = frozenset(state.value for state in PollState)
_MAX_TOKEN = 2000
_MAX_COMMAND_ID = 64
_NICKNAME_PUNCTUATION = frozenset(" _-.'")
_EMOJI_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True, slots=True)
class JoinRoom:
    room_code: str
    nickname: str
    participant_token: str | None


@dataclass(frozen=True, slots=True)
class JoinHost:
    """``viewer``: wants to look on and never to control."""

    room_code: str
    host_token: str | None
    viewer: bool


@dataclass(frozen=True, slots=True)
class SubmitVote:
    room_code: str
    participant_id: UUID | None  # None: not an id at all, so nobody's
    option_index: int
    command_id: str | None


@dataclass(frozen=True, slots=True)
class ChangePollState:
    room_code: str
    new_state: PollState
    host_token: str | None


@dataclass(frozen=True, slots=True)
class NewPoll:
    question: str
    options: tuple[str, ...]


def room_code(value: object) -> str:
    """Upper-cased room code.

    :raises Invalid: not six characters of the alphabet
    """
    if isinstance(value, str) and len(value) <= 64:
        code = value.strip().upper()
        if _ROOM_CODE.fullmatch(code):
            return code
    raise Invalid("Invalid room code format", "invalid_room_code")


def join_room(payload: object, limits: PollSettings) -> JoinRoom:
    """:raises Invalid:"""
    fields = _object(payload, {"roomCode", "nickname", "participantToken"})
    if _blank(fields.get("roomCode")) or _blank(fields.get("nickname")):
        raise Invalid("Missing required fields: roomCode and nickname", "missing_fields")
    return JoinRoom(
        room_code(fields["roomCode"]),
        nickname(fields["nickname"], limits.nickname_max),
        _token(fields.get("participantToken"), "participantToken"),
    )


def join_host(payload: object) -> JoinHost:
    """A bare room code, or an object.

    :raises Invalid:
    """
    if isinstance(payload, str):
        return JoinHost(room_code(payload), None, viewer=False)
    fields = _object(payload, {"roomCode", "hostToken", "viewer"})
    if _blank(fields.get("roomCode")):
        raise Invalid("Missing required fields: roomCode", "missing_fields")
    viewer = fields.get("viewer", False)
    if not isinstance(viewer, bool):
        _wrong("viewer")
    return JoinHost(room_code(fields["roomCode"]), _token(fields.get("hostToken"), "hostToken"), viewer)


def submit_vote(payload: object) -> SubmitVote:
    """:raises Invalid:"""
    fields = _object(payload, {"roomCode", "participantId", "optionIndex", "commandId"})
    option = fields.get("optionIndex")
    participant = fields.get("participantId")
    if _blank(fields.get("roomCode")) or _blank(participant) or option is None:
        raise Invalid("Missing required fields: roomCode, participantId, and optionIndex", "missing_fields")
    code = room_code(fields["roomCode"])
    if not isinstance(participant, str):
        _wrong("participantId")
    if not isinstance(option, int) or isinstance(option, bool) or not 0 <= option <= 32767:
        raise Invalid("Invalid option index", "invalid_option")
    command_id = fields.get("commandId")
    if command_id is not None and not (isinstance(command_id, str) and 0 < len(command_id) <= _MAX_COMMAND_ID):
        _wrong("commandId")
    if command_id is not None:
        _storable(command_id, "commandId")
    return SubmitVote(code, _uuid(participant), option, command_id)


def change_poll_state(payload: object) -> ChangePollState:
    """:raises Invalid:"""
    fields = _object(payload, {"roomCode", "newState", "hostToken"})
    if _blank(fields.get("roomCode")) or _blank(fields.get("newState")):
        raise Invalid("Missing required fields: roomCode and newState", "missing_fields")
    return ChangePollState(
        room_code(fields["roomCode"]),
        poll_state(fields["newState"]),
        _token(fields.get("hostToken"), "hostToken"),
    )


def poll_state(value: object) -> PollState:
    """:raises Invalid:"""
    if isinstance(value, str) and value in _STATES:
        return PollState(value)
    raise Invalid("Invalid state: expected waiting, open or closed", "invalid_state")


def new_poll(payload: object, limits: PollSettings) -> NewPoll:
    """:raises Invalid:"""
    fields = _object(payload, {"question", "options"})
    question, options = fields.get("question"), fields.get("options")
    if question is None or options is None:
        raise Invalid("Missing required fields: question and options", "missing_fields")
    if not isinstance(question, str) or not question.strip():
        raise Invalid("Question must not be empty", "invalid_question")
    question = question.strip()
    if len(question) > limits.question_max:
        raise Invalid(f"Question must be {limits.question_max} characters or less", "invalid_question")
    _storable(question, "question")
    if not isinstance(options, list) or not limits.options_min <= len(options) <= limits.options_max:
        raise Invalid(
            f"Options array must contain {limits.options_min}-{limits.options_max} elements", "invalid_options"
        )
    stripped = tuple(_option(option, limits) for option in options)
    if len({option.casefold() for option in stripped}) != len(stripped):
        raise Invalid("Options must be distinct", "invalid_options")
    return NewPoll(question, stripped)


def nickname(value: object, longest: int) -> str:
    """Trimmed, otherwise as typed.

    :raises Invalid: empty, too long, or with a character that nicknames may not have
    """
    if not isinstance(value, str):
        _wrong("nickname")
    name = value.strip()
    if not 1 <= len(name) <= longest:
        raise Invalid(f"Nickname must be 1-{longest} characters", "invalid_nickname")
    if not all(_allowed_in_nickname(character) for character in name) or not any(map(_visible, name)):
        raise Invalid("Nickname may contain letters, digits, emoji, spaces and _ - . ' only", "invalid_nickname")
    return name


def _allowed_in_nickname(character: str) -> bool:
    if character in _NICKNAME_PUNCTUATION or character == _EMOJI_JOINER or ord(character) in _SKIN_TONES:
        return True
    kind = unicodedata.category(character)
    return kind[0] in "LMN" or kind == "So"


def _visible(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] in "LN" or kind == "So"


def _option(value: object, limits: PollSettings) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= limits.option_max:
        raise Invalid(f"Each option must be 1-{limits.option_max} characters", "invalid_options")
    return _storable(value.strip(), "option")


def _object(payload: object, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise Invalid("Invalid payload: expected an object", "invalid_payload")
    unknown = payload.keys() - allowed
    if unknown:
        raise Invalid("Invalid payload: it has fields that are not known here", "unknown_field")
    return payload


def _token(value: object, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _MAX_TOKEN:
        _wrong(field)
    return value


def _uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def _storable(text: str, field: str) -> str:
    """Postgres has no NUL in a text, and half a surrogate pair has no UTF-8."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Invalid(f"Invalid characters in {field}", "invalid_characters")
    return text


def _blank(value: object) -> bool:
    return value is None or value == ""


def _wrong(field: str) -> NoReturn:
    raise Invalid(f"Invalid {field}", "invalid_payload")
