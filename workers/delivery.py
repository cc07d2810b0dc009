"""What is known of the command that a thread is working on: where it comes from, and for the log how it went."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Delivery:
    """``traced``: correlation ids of some of the things that the command carries, by place. ``failed_tries``: how often
    it was in vain, here or in another process. ``told`` goes into the command's line in the log."""

    traced: dict[int, str] = field(default_factory=dict)
    failed_tries: int = 0
    database_s: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Delivery | None] = ContextVar("delivery", default=None)


def begin(delivery: Delivery) -> None:
    """This thread works on it from now on."""
    _current.set(delivery)


def current() -> Delivery:
    """What this thread works on; one of nobody's where that is no command."""
    return _current.get() or Delivery()
