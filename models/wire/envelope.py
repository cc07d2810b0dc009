"""The Dramatiq message around a command, made without importing a broker.

Dramatiq's fields are fixed (a further top-level one is a decode error), so metadata goes into ``options``.
"""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils import uuid7

from models.wire.commands import ROUTES


class Envelope(msgspec.Struct, frozen=True):
    """A Dramatiq message. ``message_timestamp`` is milliseconds since the epoch."""

    queue_name: str
    actor_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int


_encoder = msgspec.json.Encoder()


def wrap(
    command: msgspec.Struct,
    traceparent: str = "",
    *,
    message_id: UUID | None = None,
    traced: Mapping[int, str] | None = None,
    sent_us: int | None = None,
) -> tuple[str, bytes]:
    """Queue name and body for one command.

    ``traceparent``: what the command is part of; without it the message's id is its trace. ``traced``: of a command
    that carries many things, the correlation ids of some, by place. ``sent_us``: now, in the shared time; without it by
    this machine's clock.
    """
    actor, queue = ROUTES[type(command)]
    options: dict[str, Any] = {"traceparent": traceparent} if traceparent else {}
    if traced:
        options["traced"] = traced
    sent_ms = (time.time_ns() // 1000 if sent_us is None else sent_us) // 1000
    envelope = Envelope(queue, actor, (command,), {}, options, str(message_id or uuid7()), sent_ms)
    return queue, _encoder.encode(envelope)
