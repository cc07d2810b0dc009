"""Hypothesis against the clock: rounds of examples, each from a seed of its own, until the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

Example = TypeVar("Example")


def for_seconds(
    seconds: float,
    inputs: st.SearchStrategy[Example],
    check: Callable[[Example], Any],
    *,
    first_seed: int = 0,
    per_round: int = 150,
    between: Callable[[], Any] = lambda: None,
) -> int:
    """How many examples were checked. ``between`` is called before each round.

    :raises AssertionError: (or what ``check`` raises) for the smallest example that hypothesis could find
    """
    count, ends = 0, time.monotonic() + seconds

    def run(example: Example) -> None:
        nonlocal count
        if time.monotonic() < ends:  # hypothesis can't be stopped in a round, but it needn't cost anything
            count += 1
            check(example)

    while time.monotonic() < ends:
        between()
        limited = settings(
            max_examples=per_round, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        seed(first_seed)(limited(given(inputs)(run)))()
        first_seed += 1
    return count
