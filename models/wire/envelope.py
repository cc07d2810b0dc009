"""The Dramatiq message around a command, made without importing a broker.

Dramatiq's fields are fixed (a further top-level one is a decode error), so metadata goes into ``options``.
"""

import time
from typing import Any

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


def wrap(command: msgspec.Struct, correlation_id: str = "") -> tuple[str, bytes]:
    """Queue name and body for one command."""
    actor, queue = ROUTES[type(command)]
    options = {"correlation_id": correlation_id} if correlation_id else {}
    body = _encoder.encode(
        Envelope(queue, actor, (command,), {}, options, str(uuid7()), int(time.time() * 1000)),
    )
    return queue, body
