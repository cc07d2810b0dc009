"""Shows a person what is being done, with the time each step took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_line = threading.Lock()


class StepFailed(Exception):
    """A step went wrong; the message is the one line that the person sees.

    ``log`` is where the details lie, if there are any.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(f"{message}; see {log}" if log else message)


def say(text: str) -> None:
    """Print one whole line, also when several threads report at once."""
    with _line:
        print(text, flush=True)


@contextmanager
def step(name: str, announce: bool = False) -> Iterator[None]:
    """Report a step with its duration when it is done; ``announce`` also says that it begins, for the long ones."""
    if announce:
        say(f"… {name}")
    began = time.monotonic()
    yield
    say(f"✓ {name}  {time.monotonic() - began:.1f} s")
