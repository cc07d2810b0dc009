"""Random faults under load, in the order of a schedule, and everything running again at the end, whatever happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from scripts.faults.hosts import Hosting
from scripts.faults.load import Load, Size
from scripts.faults.schedule import FREEZE, HALVES, HOLD_DOWN, Blow, schedule
from scripts.faults.stack import RunningStack
from scripts.loadtest import report

SETTLE_S = 60.0


def run(stack: RunningStack, seconds: float, seed: int, size: Size, url: str = "") -> dict[str, Any]:
    """Break and mend for ``seconds``, then settle; the report of the load.

    :raises CannotConnect: the voters could not join at the start
    """
    blows = schedule(seed, seconds, list(stack.victims), stack.link_names)
    with Load(stack, size, url) as load, Hosting(load.base, seed) as hosting:
        load.begin()
        try:
            strike(stack, load, blows, seconds)
        except BaseException:
            # Ctrl-C ends the voters too, and an impatient second one must not leave half of the stack frozen.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            stack.mend()
            raise
        load.during(stack.mend)
        load.during(hosting.finish)
        result = load.settle(SETTLE_S)
        return report.with_acks(result, hosting.settle(stack.nodes, stack.dsn, SETTLE_S), hosting.acks())


def strike(stack: RunningStack, load: Load, blows: list[Blow], seconds: float) -> None:
    """Carry the blows out at their times; those that end later than ``seconds`` are left to ``mend``."""
    began = time.monotonic()
    for at_s, work, text in sorted(_steps(stack, blows), key=lambda step: step[0]):
        load.watch(max(0.0, began + min(at_s, seconds) - time.monotonic()))
        if text:
            load.tell(text)
        load.during(work)
    load.watch(max(0.0, began + seconds - time.monotonic()))


def _steps(stack: RunningStack, blows: list[Blow]) -> list[tuple[float, Callable[[], object], str]]:
    """Beginnings and ends: time, what to do, what to say."""
    steps: list[tuple[float, Callable[[], object], str]] = []
    for blow in blows:
        if blow.action in HALVES:
            steps.append((blow.at_s, partial(stack.links.halve, blow.name, HALVES[blow.action]), str(blow)))
            steps.append((blow.at_s + blow.for_s, partial(stack.links.mend, blow.name), ""))
            continue
        victim = stack[blow.name]
        if blow.action == FREEZE:
            steps.append((blow.at_s, victim.freeze, str(blow)))
            steps.append((blow.at_s + blow.for_s, victim.thaw, ""))
        elif blow.action == HOLD_DOWN:
            steps.append((blow.at_s, victim.kill_and_hold_down, str(blow)))
            steps.append((blow.at_s + blow.for_s, victim.begin_to_return, ""))
        else:
            steps.append((blow.at_s, victim.kill, str(blow)))
    return steps
