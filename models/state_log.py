"""A poll's state changes, in the order in which they were made, folded into what they mean. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.wire.polls import PollState

TIMER = "timer"  # in place of the host who asked for a change


@dataclass(frozen=True, slots=True)
class Timeline:
    """A poll's state and voting periods.

    ``changed_at_us`` is when the current state was asked for, 0 before any change. A period is
    (opened at, closed at); closed at is None while voting is open.
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


def fold(log: Sequence[tuple[int, PollState, str, int]], close_after_us: int | None = None) -> Timeline:
    """The timeline of a log of (at_us, new state, actor, recorded at), sorted by time. A change to the state that holds
    is none.

    With ``close_after_us`` a period that is older than that has ended by itself, when its time was over. Its time
    begins when the opening was recorded, since nobody could vote before, however long ago it was asked for. The timer's
    own entries only say that this time has come: a host may have closed and opened again before one of them was made.
    """
    timeline = Timeline()
    for at_us, new_state, actor, recorded_us in log:
        ends_us = timeline.opened_at_us + close_after_us if close_after_us is not None else None
        if timeline.state is PollState.OPEN and ends_us is not None and ends_us <= at_us:
            timeline = _apply(timeline, ends_us, PollState.CLOSED)
        if actor != TIMER:
            begins_us = at_us if close_after_us is None else max(at_us, recorded_us)
            timeline = _apply(timeline, at_us, new_state, begins_us)
    return timeline


def _apply(timeline: Timeline, at_us: int, new_state: PollState, begins_us: int = 0) -> Timeline:
    if new_state is timeline.state:
        return timeline
    periods = timeline.periods
    if new_state is PollState.OPEN:
        periods = (*periods, (begins_us, None))
    elif timeline.state is PollState.OPEN:
        # A close that was asked for before the period could begin leaves nothing of it.
        periods = (*periods[:-1], (min(periods[-1][0], at_us), at_us))
    return Timeline(new_state, at_us, periods)
