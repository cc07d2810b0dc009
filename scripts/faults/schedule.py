"""What breaks when: the same for the same seed, duration and names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.faults.links import PROCESS, SERVER

KILL, HOLD_DOWN, FREEZE = "kill -9", "kill -9 and keep down", "freeze"
HALVES = {"half-dead, the process's end gone:": PROCESS, "half-dead, the server's end gone:": SERVER}
"""What links suffer, and whose end dies."""

_PAUSE_S = (1.0, 4.0)
_HOLD_S = (0.5, 5.0)
_BREATH_S = 3.0
"""At least so long between two blows to the same process: one that never comes up proves nothing."""
_SLOW_START_S = {"rabbitmq": 8.0}
_QUIET_END_S = 2.0
_HALF_DEAD_S = (4.0, 15.0)
_SHARE_OF_LINKS = 0.3


@dataclass(frozen=True)
class Blow:
    """One fault. ``at_s`` from the start; it ends ``for_s`` seconds later, a plain kill by the supervisor's restart."""

    at_s: float
    action: str
    name: str
    for_s: float

    def __str__(self) -> str:
        held = "" if self.action == KILL else f" for {self.for_s:.1f} s"
        return f"{self.action} {self.name}{held}"


def schedule(seed: int, seconds: float, names: Sequence[str], links: Sequence[str] = ()) -> list[Blow]:
    """Blows in the order of time. Several processes may be down at once, each kind is hit about equally often.

    ``links``, if there are any, get three of ten blows.
    """
    dice = random.Random(seed)
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(name.rstrip("-0123456789"), []).append(name)
    free_at = dict.fromkeys((*names, *links), 0.0)
    blows = []
    at_s = dice.uniform(0.5, 1.5)
    while at_s < seconds - _QUIET_END_S:
        if links and dice.random() < _SHARE_OF_LINKS:
            name, action, hold_s = dice.choice(sorted(links)), dice.choice(list(HALVES)), _HALF_DEAD_S
        else:
            name = dice.choice(kinds[dice.choice(sorted(kinds))])
            action, hold_s = dice.choice((KILL, HOLD_DOWN, FREEZE)), _HOLD_S
        for_s = min(dice.uniform(*hold_s), seconds - at_s)
        if free_at[name] <= at_s:
            blows.append(Blow(at_s, action, name, for_s))
            free_at[name] = at_s + for_s + _BREATH_S + _SLOW_START_S.get(name, 0)
        at_s += dice.uniform(*_PAUSE_S)
    return blows
