"""When a voter votes: again as soon as it is answered, or at a rate that doesn't wait for answers."""

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol


class Castable(Protocol):
    """The part of a voter that a schedule needs."""

    queued: bool

    def able(self) -> bool:
        """Connected, joined, nothing unanswered, not asked to wait."""

    def cast(self, intended_at: float) -> None:
        """Send a vote; its latency counts from ``intended_at`` (seconds of the monotonic clock)."""


class ClosedLoop:
    """Every voter votes again as soon as its ack is there."""

    def __init__(self) -> None:
        self._running = False
        self._early: list[Castable] = []

    def start(self) -> None:
        self._running = True
        early, self._early = self._early, []
        for voter in early:
            self.freed(voter)

    def freed(self, voter: Castable) -> None:
        """The voter can vote now."""
        if self._running:
            if voter.able():
                voter.cast(monotonic())
        else:
            self._early.append(voter)

    def stop(self) -> None:
        self._running = False
        self._early.clear()

    def overdue(self) -> int:
        """Votes that should have been sent by now and weren't: none, there is no plan to be late for."""
        return 0


class OpenLoop:
    """``rate`` votes a second in even steps, each by the voter that has been idle for longest.

    A vote for which nobody is idle stays due and is cast when somebody is; its latency counts from when it was due, so
    a slow server cannot hide by slowing the load (coordinated omission).
    """

    _TICK_S = 0.001

    def __init__(self, rate: float) -> None:
        self._step_s = 1 / rate
        self._idle: deque[Castable] = deque()
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due_at = monotonic()
        self._tick()

    def freed(self, voter: Castable) -> None:
        """The voter can vote now."""
        if not voter.queued:
            voter.queued = True
            self._idle.append(voter)
            if self._timer is not None and self._due_at <= monotonic():
                self._cast_due()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def overdue(self) -> int:
        """Votes that should have been sent by now and weren't, for want of an idle voter."""
        return max(0, int((monotonic() - self._due_at) / self._step_s)) if self._due_at else 0

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._TICK_S, self._tick)
        self._cast_due()

    def _cast_due(self) -> None:
        now = monotonic()
        while self._idle and self._due_at <= now:
            voter = self._idle.popleft()
            voter.queued = False
            if voter.able():
                voter.cast(self._due_at)
                self._due_at += self._step_s


Schedule = ClosedLoop | OpenLoop
