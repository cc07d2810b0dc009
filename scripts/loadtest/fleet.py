"""A run's processes, seen from the one that commands them. ``scripts/chaos`` steers a ``Fleet`` the same way.

fleet = Fleet(seats, run="a1", rate=None, processes=2, at_most_s=300)
with fleet:
    fleet.gather(deadline_s=60)           # everybody has joined
    fleet.vote(window_s=20)
    fleet.watch(seconds=20)               # or break something meanwhile, reading fleet.progress()
    fleet.quiesce(deadline_s=30)          # no further votes, every answer in or given up
    outcomes = fleet.outcomes()
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from time import monotonic
from types import TracebackType

from scripts.loadtest.crowd import (
    HANDSHAKES_IN_FLIGHT,
    Outcome,
    Plan,
    Progress,
    Stop,
    Tell,
    Vote,
    most_voters_per_process,
    process_main,
)
from scripts.loadtest.ledger import VoterLedger
from scripts.loadtest.voter import EAGER, Comeback, Seat

_VOTERS_PER_PROCESS = 2000
_VOTES_PER_PROCESS_PER_S = 15_000
_TELL_S = 30.0


class CannotConnect(Exception):
    """The voters could not all join; says how many did and why the others did not."""


class ProcessDied(Exception):
    """A load process ended without its outcome: its part of the ledger is lost, so no account is possible."""


def fitting_processes(voters: int, rate: float | None) -> int:
    """Processes for so many voters and votes/s: few, for each costs CPU that the product could use."""
    by_descriptors = -(-voters // most_voters_per_process())
    return max(1, -(-voters // _VOTERS_PER_PROCESS), int((rate or 0) // _VOTES_PER_PROCESS_PER_S), by_descriptors)


def seat_voters(
    voters: int,
    rooms: Sequence[tuple[str, int]],
    nodes: Sequence[tuple[str, int]],
    sources: Sequence[str | None] = (None,),
) -> list[Seat]:
    """Spread voters evenly over rooms (code, number of options) and over the addresses they come from, and each room's
    voters over nodes (host, port).
    """
    seats = []
    for index in range(voters):
        room, options = rooms[index % len(rooms)]
        host, port = nodes[index // len(rooms) % len(nodes)]
        seats.append(Seat(index, room, options, host, port, sources[index % len(sources)]))
    return seats


class Fleet:
    """``processes`` load processes with their share of ``seats`` and of ``rate`` (votes/s, None: closed loop).

    ``on_progress`` gets the sum several times a second while a method waits. ``at_most_s``: every process ends
    by itself after so long, whatever happens to this one. ``comeback``: how voters come back after a cut.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        run: str,
        rate: float | None,
        processes: int,
        at_most_s: float,
        on_progress: Callable[[Progress], None] = lambda _: None,
        comeback: Comeback = EAGER,
    ) -> None:
        self._voters = len(seats)
        self._on_progress = on_progress
        self._plans = [
            Plan(
                run,
                tuple(seats[part::processes]),
                rate / processes if rate else None,
                max(1, HANDSHAKES_IN_FLIGHT // processes),
                at_most_s,
                comeback,
            )
            for part in range(processes)
        ]
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._orders: list[Pipe] = []
        self._news: list[Pipe] = []
        self._latest: dict[Pipe, Progress] = {}
        self._outcomes: dict[Pipe, Outcome] = {}

    def __enter__(self) -> "Fleet":
        context = multiprocessing.get_context("spawn")
        for number, plan in enumerate(self._plans, 1):
            their_orders, orders = context.Pipe(duplex=False)
            news, their_news = context.Pipe(duplex=False)
            theirs = (plan, their_orders, their_news)
            process = context.Process(target=process_main, args=theirs, name=f"load-{number}", daemon=True)
            process.start()
            their_orders.close()
            their_news.close()
            self._processes.append(process)
            self._orders.append(orders)
            self._news.append(news)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._orders + self._news:
            pipe.close()
        for process in self._processes:
            process.join(3)
            if process.is_alive():
                process.kill()
                process.join(3)

    def progress(self) -> Progress:
        """The sum over the processes, as told last."""
        return sum(self._latest.values(), Progress())

    def gather(self, deadline_s: float) -> None:
        """Wait until everybody has joined.

        :raises CannotConnect: not everybody within ``deadline_s`` seconds, or somebody was refused for good
        """
        self._wait(lambda: self.progress().joined == self._voters or self.progress().given_up > 0, deadline_s)
        progress = self.progress()
        if progress.joined < self._voters:
            why = progress.problem or "no answer"
            raise CannotConnect(f"{progress.joined} of {self._voters} voters could join: {why}")

    def vote(self, window_s: float, tail_s: float = 0.0) -> None:
        """Start voting; it stops by itself after ``window_s`` (measured) plus ``tail_s`` seconds."""
        self._order(Vote(window_s, tail_s))

    def watch(self, seconds: float) -> None:
        """Let time pass while taking in progress."""
        self._wait(lambda: False, seconds)

    def quiesce(self, deadline_s: float) -> bool:
        """Stop voting and wait for the answers still out; whether all came within ``deadline_s`` seconds."""
        self._order(Stop())
        self._latest.clear()

        def quiet() -> bool:
            told = len(self._latest) == len(self._news) and not self.progress().voting
            return told and self.progress().unanswered == 0

        return self._wait(quiet, deadline_s)

    def outcomes(self) -> list[Outcome]:
        """What each process knows now. The voters stay connected and listen, so a later answer may know more.

        :raises ProcessDied: one ended without telling
        """
        self._outcomes.clear()
        self._order(Tell())
        self._wait(lambda: len(self._outcomes) == len(self._news), _TELL_S)
        if len(self._outcomes) < len(self._news):
            raise ProcessDied("a load process did not tell its outcome")
        return [self._outcomes[pipe] for pipe in self._news]

    def ledgers(self) -> list[VoterLedger]:
        """All voters' ledgers as they stand."""
        return [ledger for outcome in self.outcomes() for ledger in outcome.ledgers]

    def _order(self, order: Vote | Stop | Tell) -> None:
        for pipe in self._orders:
            with suppress(OSError):  # Its death is noticed when it is listened to.
                pipe.send(order)

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        ends_at = monotonic() + seconds
        while not done():
            left_s = ends_at - monotonic()
            if left_s <= 0:
                return False
            self._take(wait(self._news, min(left_s, 0.5)))
            self._on_progress(self.progress())
        return True

    def _take(self, ready: Iterable[object]) -> None:
        for pipe in ready:
            assert isinstance(pipe, Pipe)
            try:
                news = pipe.recv()
            except (EOFError, OSError):
                raise ProcessDied("a load process died") from None
            if isinstance(news, Outcome):
                self._outcomes[pipe] = news
            else:
                self._latest[pipe] = news
