"""Waiting for a condition with a generous deadline: on a busy machine everything is late, nothing is missing."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Above what closes wait for nodes of other tests, which die or have slow clocks (worker.straggler_wait_s each).
PATIENCE_S = 60.0


async def eventually(condition: Callable[[], Any | Awaitable[Any]], what: str, within_s: float = PATIENCE_S) -> Any:
    """The condition's first true value.

    :raises AssertionError: it has none within ``within_s`` seconds
    """
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.02)
