"""How many there should be: a pure function of a load, the limits, and what is remembered of the looks before.

A load is told as pressure: 1 is just on target. Above the band around 1 there are soon more, in proportion; below it,
if that would hold with one less, and only after a long time, there is one less. Every change, and every moment in which
nothing is known, begins both times anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.runtime.settings import BoundsSettings, ScalerSettings


@dataclass(frozen=True)
class Load:
    """What ``count`` instances bear, and what those would that are left ``with_one_less``.

    ``incomplete``: why none may be taken away; empty when everything is known.
    """

    count: int
    pressure: float
    with_one_less: float
    incomplete: str = ""


@dataclass(frozen=True)
class Memory:
    """Since when, by the clock that ``decide`` is given, the pressure has been too high, or low enough for one less."""

    pressed_since: float | None = None
    relieved_since: float | None = None


@dataclass(frozen=True)
class Decision:
    """``count`` is the load's own when nothing is to change; ``why`` is for people."""

    count: int
    why: str
    memory: Memory


def decide(load: Load, bounds: BoundsSettings, rules: ScalerSettings, memory: Memory, now: float) -> Decision:
    """One step, to be taken before the next decision. Never outside of ``bounds``."""
    if load.count < bounds.min:
        return Decision(bounds.min, "fewer than the least", Memory())
    if load.count > bounds.max and not load.incomplete:
        return Decision(bounds.max, "more than the most", Memory())
    pressed = load.pressure > 1 + rules.hysteresis
    relieved = load.with_one_less < 1 - rules.hysteresis and not load.incomplete
    memory = Memory(
        _since(memory.pressed_since, now) if pressed else None,
        _since(memory.relieved_since, now) if relieved else None,
    )
    if memory.pressed_since is not None:
        if load.count >= bounds.max:
            return Decision(load.count, "too much load, and no more are allowed", memory)
        if now - memory.pressed_since < rules.up_after_s:
            return Decision(load.count, "too much load, not for long", memory)
        return Decision(min(bounds.max, _more(load, rules.step_up)), "too much load", Memory())
    if memory.relieved_since is not None and load.count > bounds.min:
        if now - memory.relieved_since < rules.down_after_s:
            return Decision(load.count, "one less would do, not for long", memory)
        return Decision(load.count - 1, "one less will do", Memory())
    return Decision(load.count, load.incomplete or "as it should be", memory)


def _since(before: float | None, now: float) -> float:
    return now if before is None else before


def _more(load: Load, step_up: float) -> int:
    """In proportion, at least one and at most a step more."""
    most = load.count + max(1, math.floor(load.count * step_up))
    return min(most, math.ceil(load.count * load.pressure)) if math.isfinite(load.pressure) else most
