"""Two versions one apart understand each other (models/wire/__init__.py): what was frozen, and what is yet to come."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from models.runtime.tokens import HostToken, ParticipantToken, Tokens
from tests.models.wire.frozen import READERS, Read, frozen, said_by

_KEY = "frozen-key-of-no-value-000000000001"  # pragma: allowlist secret
_LONG_S = 10**10
EACH_FROZEN = [
    pytest.param(read, line, id=f"{name}-{number}")
    for name, (read, _) in READERS.items()
    for number, line in enumerate(frozen(name))
]


def spelled(value: Any) -> Any:
    """As today's code says it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def keeps(now: Any, then: Any) -> bool:
    """Everything that was said then is said now; there may be more."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(key in now and keeps(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(now) >= len(then) and all(map(keeps, now, then))
    return bool(now == then)


def of_tomorrow(value: Any) -> Any:
    """As a version encodes it that has added a field to each struct."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        fields = [of_tomorrow(getattr(value, field)) for field in value.__struct_fields__]
        if config.array_like:
            return [*fields, "added"]
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | dict(zip(value.__struct_encode_fields__, fields, strict=True)) | {"added": ["by", {"a": "later"}]}
    if isinstance(value, tuple):
        return [of_tomorrow(item) for item in value]
    return msgspec.to_builtins(value)


@pytest.mark.proves("FR-027")
@pytest.mark.parametrize(("read", "message"), EACH_FROZEN)
def test_what_a_version_before_has_sent_is_understood(read: Read, message: bytes) -> None:
    assert keeps(spelled(read(message)), said_by(message))


@pytest.mark.proves("FR-027")
@pytest.mark.parametrize(("read", "message"), EACH_FROZEN)
def test_a_field_that_a_later_version_adds_is_passed_over(read: Read, message: bytes) -> None:
    # Given a message to which a later version has added fields, at every depth
    known = read(message)
    envelope = msgspec.json.decode(message)
    later = of_tomorrow(known)
    if "actor_name" in envelope:
        later = envelope | {"args": [later], "options": envelope["options"] | {"added": 1}, "added": 1}
    assert msgspec.json.encode(later).count(b"added") > envelope.get("actor_name", "").count("added")
    # Then today's code reads from it what it knows
    assert read(msgspec.json.encode(later)) == known


@pytest.mark.parametrize("name", READERS)
def test_each_kind_of_message_is_frozen_with_all_its_fields(name: str) -> None:
    read, kinds = READERS[name]
    whole = {type(read(line)) for line in frozen(name) if spelled(read(line)) == said_by(line)}
    assert whole == set(kinds), "freeze what is new: a line in tests/models/wire/messages"


@pytest.mark.proves("FR-004", "FR-027")
def test_tokens_that_a_version_before_has_signed_are_good() -> None:
    tokens = Tokens([_KEY], _LONG_S)
    for line in frozen("tokens"):
        said = msgspec.json.decode(line)
        known = spelled(getattr(tokens, f"read_{said['kind']}")(said["token"]))
        assert (list(known.values()) if isinstance(known, dict) else known) == said["means"]


def test_a_token_to_which_a_later_version_adds_something_is_good() -> None:
    tokens, who = Tokens([_KEY], _LONG_S), UUID(int=1)
    later = tokens._participant.dumps([17, who.hex, "Ada", 2, "added"])
    assert tokens.read_participant(later) == ParticipantToken(17, who, "Ada", 2)
    assert tokens.read_host(tokens._host.dumps([17, 2, {"added": 1}])) == HostToken(17, 2)
