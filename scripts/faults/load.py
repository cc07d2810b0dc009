"""A crowd of voters that keeps voting while things break, and the account of every vote afterwards."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from scripts.faults.stack import RunningStack
from scripts.loadtest import account, report, rest, timeline
from scripts.loadtest.crowd import Progress
from scripts.loadtest.fleet import Fleet, seat_voters
from scripts.loadtest.voter import EAGER, Comeback
from scripts.stack.progress import say

T = TypeVar("T")

OPTIONS = 4
_JOIN_S = 60.0
_LOOK_EVERY_S = 0.1
_ANSWERS_S = 40.0


@dataclass(frozen=True)
class Size:
    """``rate``: votes/s over all voters, whatever the answers. ``at_most_s``: the voters leave by themselves then.
    ``comeback``: how they come back after a cut."""

    voters: int = 100
    rate: float = 400
    rooms: int = 2
    at_most_s: float = 300
    comeback: Comeback = EAGER


class Load:
    """Voters in polls of their own, through the balancer. Use it as a context; ``begin`` makes them vote.

    A span in which nothing is acked is seen to a resolution of 0.2 s.
    """

    def __init__(self, stack: RunningStack, size: Size, url: str = "") -> None:
        self._stack = stack
        self._size = size
        self.base = rest.parse_base(url) if url else stack.base
        self.rooms = [rest.open_room(self.base, number + 1, OPTIONS) for number in range(size.rooms)]
        seats = seat_voters(
            size.voters, [(room.code, room.options) for room in self.rooms], [(self.base.host, self.base.port)]
        )
        self._fleet = Fleet(seats, secrets.token_hex(4), size.rate, 1, size.at_most_s, self._note, size.comeback)
        self._acked = 0
        self._began = self._acked_at = self.struck_at = 0.0
        self._voting = False
        self.longest_pause_s = 0.0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Load:
        self._fleet.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fleet.__exit__(kind, error, trace)
        for room in self.rooms:
            try:
                rest.change_state(self.base, room, "closed")
            except rest.RestError:
                pass  # Nobody votes any more; the poll only stays open.

    def begin(self, warm_up_s: float = 1.0) -> None:
        """Everybody joins and votes; returns after ``warm_up_s`` of it.

        :raises CannotConnect: not everybody could join
        """
        self._fleet.gather(_JOIN_S)
        self._fleet.vote(self._size.at_most_s)
        self._began = self._acked_at = time.monotonic()
        self._voting = True
        self.watch(warm_up_s)

    def watch(self, seconds: float) -> None:
        """Let them vote."""
        self._fleet.watch(seconds)

    def during(self, work: Callable[[], T]) -> T:
        """Run something that blocks while the voting is observed; its result or error."""
        with ThreadPoolExecutor(1, "during") as worker:
            running = worker.submit(work)
            while not running.done():
                self._fleet.watch(_LOOK_EVERY_S)
        return running.result()

    def tell(self, text: str) -> None:
        """Say what happens now, and remember it for the report."""
        at_s = time.monotonic() - self._began
        say(f"{at_s:6.1f} s  {text}")
        self._events.append({"at_s": round(at_s, 1), "text": text})

    def strike(self, work: Callable[[], None]) -> None:
        """Begin an outage, whose length ``hold`` counts from the end of ``work``."""
        self.during(work)
        self.struck_at = time.monotonic()

    def hold(self, seconds: float) -> None:
        """Let them vote until the outage has lasted so long."""
        self.watch(max(0.0, self.struck_at + seconds - time.monotonic()))

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Watch until it holds; False when it does not within ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        while not self.during(condition):
            if time.monotonic() > deadline:
                return False
            self.watch(_LOOK_EVERY_S)
        return True

    def progress(self) -> Progress:
        """As told last, at most some 0.2 s old."""
        return self._fleet.progress()

    def hears_results(self, since: float, within_s: float) -> bool:
        """Whether some socket of every room has heard new totals since then (monotonic seconds), or does in time."""
        deadline = time.monotonic() + within_s
        rooms = {room.code for room in self.rooms}
        while True:
            seen = [socket for outcome in self._fleet.outcomes() for socket in outcome.sockets]
            if {socket.room for socket in seen if socket.totals_since > since} == rooms:
                return True
            if time.monotonic() > deadline:
                return False
            self.watch(_LOOK_EVERY_S)

    def settle(self, patience_s: float) -> dict[str, Any]:
        """End the voting and demand every vote; the report of scripts/load, with ``longest_pause_s``."""
        self._voting, voted_s = False, round(time.monotonic() - self._began, 1)
        quiet = self._fleet.quiesce(_ANSWERS_S)
        bases = list(dict.fromkeys([self.base, *self._stack.nodes]))
        held = account.settle(self._fleet.ledgers, bases, self._stack.dsn, patience_s, pause=self._fleet.watch)
        self._fleet.watch(0.5)
        outcomes = self._fleet.outcomes()
        result = report.build_report(outcomes, held, voted_s, time.process_time(), quiet)
        timed = {"timeline": timeline.seconds_of(outcomes), "events": self._events}
        return result | timed | {"longest_pause_s": round(self.longest_pause_s, 1)}

    def _note(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._voting:
            self.longest_pause_s = max(self.longest_pause_s, now - self._acked_at)
        if progress.acked != self._acked:
            self._acked, self._acked_at = progress.acked, now


def describe_findings(result: dict[str, Any], most: int = 10) -> str:
    """What is wrong with an account, for an assertion's text."""
    findings: Sequence[dict[str, Any]] = result["account"]["findings"][:most]
    return "; ".join(f"{one['kind']}: {one['room']} {one['detail']}" for one in findings) or str(result)
