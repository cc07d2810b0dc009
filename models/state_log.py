"""A poll's state changes, in the order in which they were made, folded into what they mean. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.wire.polls import PollState


@dataclass(frozen=True, slots=True)
class Timeline:
    """A poll's state and voting periods. ``changed_at_us`` is when the current state began, 0 before any change.

    A period is (opened at, closed at); closed at is None while voting is open.
    """

    state: PollState = PollState.WAITING
    changed_at_us: int = 0
    periods: tuple[tuple[int, int | None], ...] = ()

    @property
    def opened_at_us(self) -> int:
        return self.periods[-1][0] if self.periods else 0

    @property
    def closed_at_us(self) -> int | None:
        return self.changed_at_us if self.state is PollState.CLOSED else None

    @property
    def reopened_count(self) -> int:
        return max(0, len(self.periods) - 1)


def fold(log: Sequence[tuple[int, PollState]]) -> Timeline:
    """The timeline of a log of (at_us, new state), sorted by time. A change to the state that holds already is none."""
    timeline = Timeline()
    for at_us, new_state in log:
        timeline = _apply(timeline, at_us, new_state)
    return timeline


def _apply(timeline: Timeline, at_us: int, new_state: PollState) -> Timeline:
    if new_state is timeline.state:
        return timeline
    periods = timeline.periods
    if new_state is PollState.OPEN:
        periods = (*periods, (at_us, None))
    elif timeline.state is PollState.OPEN:
        periods = (*periods[:-1], (periods[-1][0], at_us))
    return Timeline(new_state, at_us, periods)
