"""Hypothesis against the clock: rounds of examples, each from a seed of its own, until the time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

Example = TypeVar("Example")
# Hypothesis can't be stopped in the middle of a round, so short runs have short ones.
PER_ROUND = 150 if "FUZZ_SECONDS" in os.environ else 25


def for_seconds(
    seconds: float,
    inputs: st.SearchStrategy[Example],
    check: Callable[[Example], Any],
    *,
    first_seed: int = 0,
    between: Callable[[], Any] = lambda: None,
) -> int:
    """How many examples were checked. ``between`` is called before each round.

    :raises AssertionError: (or what ``check`` raises) for the smallest example that hypothesis could find
    """
    count, ends = 0, time.monotonic() + seconds

    def run(example: Example) -> None:
        nonlocal count
        if time.monotonic() < ends:
            count += 1
            check(example)

    while time.monotonic() < ends:
        between()
        limited = settings(
            max_examples=PER_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        seed(first_seed)(limited(given(inputs)(run)))()
        first_seed += 1
    return count
