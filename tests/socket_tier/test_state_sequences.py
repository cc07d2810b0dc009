"""The state of a poll is what was asked for last, whoever asks for what at once, and whatever is slow."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.faults.stack import RunningStack
from tests.breakable import addresses, base_url, database_url, node_urls, run_dir, second_stack
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Rest
from tests.socket_tier.state_sequences import Sequence

# Processes are stopped for a while.
__all__ = ["addresses", "base_url", "database_url", "node_urls", "run_dir"]

pytestmark = [*second_stack, pytest.mark.timeout(1800)]
_AT_ONCE = 10


async def disturb(stack: RunningStack, chance: random.Random) -> None:
    """Stop one process, or one of the database's, for a moment, again and again."""
    while True:
        await asyncio.sleep(chance.uniform(0.2, 1))
        kind = chance.choice(("postgres", "host-worker", "node"))
        victim = chance.choice(stack.of_kind(kind))
        victim.freeze()
        try:
            await asyncio.sleep(chance.uniform(0.1, 2))
        finally:
            victim.thaw()


@pytest.mark.proves("FR-013", "FR-037")
async def test_the_last_change_that_was_asked_for_holds_and_each_acked_one_is_in_the_log(
    new_browser: NewBrowser,
    rest: Rest,
    node_urls: list[str],
    database_url: str,
    run_dir: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """STATE_SEQUENCES=200 runs so many sequences instead of ten, STATE_SEED=n others than usual."""
    stack = RunningStack(run_dir)
    count, seed = int(os.environ.get("STATE_SEQUENCES", _AT_ONCE)), int(os.environ.get("STATE_SEED", "17"))
    broken: list[str] = []
    took_s: list[float] = []

    async def settle(sequence: Sequence) -> None:
        try:
            took_s.append(await sequence.settle())
        except AssertionError as error:
            broken.append(f"{sequence}: {error}")

    for first in range(0, count, _AT_ONCE):
        sequences = [
            Sequence(seed * 1_000_000 + number, rest, node_urls, database_url)
            for number in range(first, min(first + _AT_ONCE, count))
        ]
        for sequence in sequences:
            await sequence.begin(new_browser)
        disturbing = asyncio.create_task(disturb(stack, random.Random(seed + first)), name="disturb")
        await asyncio.gather(*(sequence.run() for sequence in sequences))
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        await asyncio.gather(*(settle(sequence) for sequence in sequences))
        for sequence in sequences:
            await sequence.end()
    record_property("slowest_s", max(took_s, default=0.0))
    changes = f"{count} sequences, shown everywhere {max(took_s, default=0.0):.2f} s after the last decision at most"
    print(f"{changes}; {len(broken)} broken")
    assert not broken, "\n".join(broken)
