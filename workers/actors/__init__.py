"""Actors: one file per family of commands. ``declare`` makes a plain handler into a Dramatiq actor."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import dramatiq
import msgspec

from models.database import DatabaseUnavailable
from models.wire.commands import FORMAT, ROUTES
from workers.broker import CommandBroker
from workers.database_gate import BREAKER_OPEN
from workers.errors import GiveBack, NeverValid, StepAside
from workers.outbox import Unconfirmed, Unroutable

C = TypeVar("C", bound=msgspec.Struct)

# Smaller comes first among the messages that one worker holds.
HOST_FIRST = 0
REQUESTS = 10
WRITES = 20
AUDIT_LAST = 30

_LANE_FULL_PAUSE_S = 0.02


class Lane:
    """At most ``width`` threads work on a family of commands at once, so that others always find one."""

    def __init__(self, width: int) -> None:
        self._free = threading.BoundedSemaphore(max(1, width))

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise StepAside("lane full", _LANE_FULL_PAUSE_S)

    def __exit__(self, *_: object) -> None:
        self._free.release()


def declare(
    broker: CommandBroker,
    command: type[C],
    handle: Callable[[C], object],
    *,
    priority: int,
    lane: Lane | None = None,
    park_s: float | None = None,
    **options: Any,
) -> dramatiq.Actor:
    """An actor for one type of command, named and queued as ``ROUTES`` says.

    The handler gets the decoded command. What it raises decides about the message: ``DatabaseUnavailable`` and an
    unconfirmed notice make it wait its turn here, ``GiveBack`` returns it, ``NeverValid`` (also anything that does not
    decode, or is of a newer format) dead-letters it, whatever else is retried a few times first. With ``park_s`` the
    message waits elsewhere while the database is known to be away; for commands on a queue on which somebody waits for
    an answer.
    """
    decoder = msgspec.json.Decoder(command)

    def run(argument: msgspec.Raw) -> None:
        try:
            decoded = decoder.decode(argument)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NeverValid("undecodable", error) from error
        if decoded.format > FORMAT:  # type: ignore[attr-defined]  # every command has one
            raise NeverValid("newer_format", "of a version that this worker doesn't know")
        try:
            if lane is None:
                handle(decoded)
            else:
                with lane:
                    handle(decoded)
        except (DatabaseUnavailable, Unconfirmed, Unroutable) as error:
            known_away = isinstance(error, DatabaseUnavailable) and error.reason == BREAKER_OPEN
            raise StepAside(str(error), park_s=park_s if known_away else None) from error

    actor_name, queue_name = ROUTES[command]
    return dramatiq.actor(
        actor_name=actor_name,
        queue_name=queue_name,
        priority=priority,
        broker=broker,
        throws=(GiveBack, StepAside, NeverValid),
        **options,
    )(run)
