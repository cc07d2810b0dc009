"""Messages as they were sent, one a line, byte for byte, and today's way to read them.

A new field or kind gets a line of its own beside the old ones; a line goes when no version that still runs sends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import msgspec

from models.wire.commands import ROUTES, Command
from models.wire.notices import Notice
from models.wire.polls import BrowserRole, PollSnapshot
from socket_tier import cache
from socket_tier.amqp import notices
from workers.encoder import CommandEncoder

_COMMANDS = {actor: (msgspec.json.Decoder(command), queue) for command, (actor, queue) in ROUTES.items()}
_MESSAGES = Path(__file__).with_name("messages")


def frozen(name: str) -> list[bytes]:
    return (_MESSAGES / f"{name}.jsonl").read_bytes().splitlines()


def _command(message: bytes) -> Any:
    """As a worker reads it."""
    envelope = CommandEncoder().decode(message)
    decoder, queue = _COMMANDS[envelope["actor_name"]]
    assert envelope["queue_name"] == queue
    (argument,) = envelope["args"]
    return decoder.decode(argument)


Read = Callable[[bytes], Any]
# By the file of frozen messages: how they are read, and all types of them.
READERS: dict[str, tuple[Read, Iterable[type]]] = {
    "commands": (_command, get_args(Command)),
    "notices": (notices._decoder.decode, get_args(Notice)),
    "snapshots": (cache._snapshot.decode, [PollSnapshot]),
    "browser_roles": (cache._role.decode, [BrowserRole]),
}


def said_by(message: bytes) -> Any:
    """What a message says, without the envelope of a command."""
    said = msgspec.json.decode(message)
    return said["args"][0] if "actor_name" in said else said
