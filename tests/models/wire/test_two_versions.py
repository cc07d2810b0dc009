"""Two versions one apart understand each other (models/wire/__init__.py): what was frozen, and what is yet to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest

from models.runtime.tokens import HostToken, ParticipantToken, Tokens
from models.wire.commands import ROUTES, Command
from models.wire.notices import Notice
from models.wire.polls import BrowserRole, PollSnapshot
from socket_tier import cache
from socket_tier.amqp import notices
from tests.models.wire.frozen import frozen
from workers.encoder import CommandEncoder

_COMMANDS = {actor: (msgspec.json.Decoder(command), queue) for command, (actor, queue) in ROUTES.items()}
_KEY = "frozen-key-of-no-value-000000000001"  # pragma: allowlist secret
_LONG_S = 10**10


def command(message: bytes) -> Any:
    """As a worker reads it."""
    envelope = CommandEncoder().decode(message)
    decoder, queue = _COMMANDS[envelope["actor_name"]]
    assert envelope["queue_name"] == queue
    (argument,) = envelope["args"]
    return decoder.decode(argument)


Read = Callable[[bytes], Any]
READERS: dict[str, tuple[Read, Iterable[type]]] = {
    "commands": (command, get_args(Command)),
    "notices": (notices._decoder.decode, get_args(Notice)),
    "snapshots": (cache._snapshot.decode, [PollSnapshot]),
    "browser_roles": (cache._role.decode, [BrowserRole]),
}
EACH_FROZEN = [
    pytest.param(READERS[name][0], line, id=f"{name}-{i}") for name in READERS for i, line in enumerate(frozen(name))
]


def plain(message: bytes) -> Any:
    """What a message says, without the envelope of a command."""
    said = msgspec.json.decode(message)
    return said["args"][0] if "actor_name" in said else said


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
    assert keeps(spelled(read(message)), plain(message))


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
    whole = {type(read(line)) for line in frozen(name) if spelled(read(line)) == plain(line)}
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
