"""The voters of one process, and the process's own main function.

The parent says ``Vote`` (when to start and for how long), ``Stop`` and ``Tell``; the process tells ``Progress`` several
times a second and ``Outcome`` when asked, as often as asked: the voters stay and listen. It ends when the parent closes
the pipe or dies, and by itself when ``Plan.at_most_s`` is over.
"""

import asyncio
import gc
import resource
import select
import time
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from time import monotonic

import uvloop

from scripts.loadtest.ledger import VoterLedger
from scripts.loadtest.schedule import ClosedLoop, OpenLoop, Schedule
from scripts.loadtest.voter import EAGER, Comeback, Counts, Seat, Voter

HANDSHAKES_IN_FLIGHT = 200
"""Over all processes of a run."""
_TELL_EVERY_S = 0.2
_SPARE_DESCRIPTORS = 200


@dataclass(frozen=True)
class Plan:
    """One process's share of a run. ``rate`` (votes/s) None means a closed loop; ``at_most_s`` ends it in any case."""

    run: str
    seats: tuple[Seat, ...]
    rate: float | None
    handshakes: int
    at_most_s: float
    comeback: Comeback = EAGER


@dataclass(frozen=True)
class Vote:
    """Start voting now: measured for ``window_s``, voting on for ``tail_s`` more."""

    window_s: float
    tail_s: float = 0.0


@dataclass(frozen=True)
class Stop:
    """Cast no further votes."""


@dataclass(frozen=True)
class Tell:
    """Tell the outcome as it stands."""


@dataclass(frozen=True)
class Progress:
    """Where a process (or, added up, the run) is."""

    joined: int = 0
    sent: int = 0
    acked: int = 0
    refused: int = 0
    recorded: int = 0
    reconnects: int = 0
    unanswered: int = 0
    voting: bool = False
    given_up: int = 0
    problem: str = ""

    def __add__(self, other: "Progress") -> "Progress":
        return Progress(
            self.joined + other.joined,
            self.sent + other.sent,
            self.acked + other.acked,
            self.refused + other.refused,
            self.recorded + other.recorded,
            self.reconnects + other.reconnects,
            self.unanswered + other.unanswered,
            self.voting or other.voting,
            self.given_up + other.given_up,
            self.problem or other.problem,
        )


@dataclass(frozen=True)
class SocketSeen:
    """What one voter's socket saw of its room's results; times in monotonic seconds, ``totals`` None without frames.

    ``away_s``: the longest time between a cut and the next join.
    """

    room: str
    frames: int
    max_per_s: int
    totals: tuple[int, ...] | None
    totals_since: float
    went_back: int
    away_s: float


@dataclass(frozen=True)
class Look:
    """How far a process was at a time (monotonic seconds): ``answers`` counts its latencies so far."""

    at: float
    answers: int
    refused: int


@dataclass
class Outcome:
    """Everything a process knows. ``last_ack_at`` per room, monotonic seconds. ``gave_up``: voters gone for good.

    ``looks``: from the start of the voting on, some 0.2 s apart.
    """

    ledgers: list[VoterLedger]
    latencies_ms: "array[float]"
    looks: list[Look]
    counts: Counts
    sockets: list[SocketSeen]
    last_ack_at: dict[str, float]
    acked_in_window: int
    overdue: int
    gave_up: int
    cpu_s: float
    voting_cpu_s: float


class Crowd:
    """The voters of one process, on the running loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts = Counts()
        self._latencies_ms = array("f")
        self._looks: list[Look] = []
        self._schedule: Schedule = OpenLoop(plan.rate) if plan.rate else ClosedLoop()
        self._voting = False
        self._voting_cpu_s = 0.0
        self._acked_in_window = 0
        self._overdue = 0
        gate = asyncio.Semaphore(plan.handshakes)
        self._voters = [
            Voter(seat, plan.run, self._schedule, self._counts, self._latencies_ms, gate, plan.comeback)
            for seat in plan.seats
        ]

    async def run(self, orders: Pipe, news: Pipe) -> None:
        """Serve the parent until it closes ``orders``, or the time is over; tell it on ``news``."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        # Two one-way pipes: the loop makes what it reads from non-blocking, and a non-blocking write may stop half way.
        loop.add_reader(orders.fileno(), self._obey, orders, news, over)
        arrivals = asyncio.create_task(self._arrive(), name="arrivals")
        ends_at = monotonic() + self._plan.at_most_s
        while not over.is_set() and monotonic() < ends_at:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _TELL_EVERY_S)
            now = monotonic()
            for voter in self._voters:
                voter.check_pulse(now)
            if self._looks:
                self._look()
            if select.select([], [news], [], 0)[1]:  # A parent that is busy elsewhere must not hold up the voters.
                self._tell(news, self.progress())
        loop.remove_reader(orders.fileno())
        arrivals.cancel()
        self._stop()
        for voter in self._voters:
            voter.leave()

    def progress(self) -> Progress:
        """Where the voters are now."""
        return Progress(
            joined=self._counts.joined,
            sent=sum(len(voter.ledger.choices) for voter in self._voters),
            acked=self._counts.acked,
            refused=sum(self._counts.refusals.values()),
            recorded=self._counts.recorded,
            reconnects=self._counts.reconnects,
            unanswered=sum(voter.unanswered() for voter in self._voters),
            voting=self._voting,
            given_up=sum(voter.gone() for voter in self._voters),
            problem=self._counts.problem,
        )

    async def _arrive(self) -> None:
        async with asyncio.TaskGroup() as group:
            for voter in self._voters:
                group.create_task(voter.come_in(), name=f"voter-{voter.seat.index}-comes")

    def _obey(self, orders: Pipe, news: Pipe, over: asyncio.Event) -> None:
        try:
            order = orders.recv()
        except (EOFError, OSError):
            over.set()
            return
        if isinstance(order, Vote):
            self._start(order)
        elif isinstance(order, Stop):
            self._stop()
        else:
            self._tell(news, self._outcome())

    def _start(self, order: Vote) -> None:
        # Everything that lives now lives to the end: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._voting = True
        self._look()
        self._voting_cpu_s = -time.process_time()
        loop = asyncio.get_running_loop()
        loop.call_later(order.window_s, self._end_window)
        loop.call_later(order.window_s + order.tail_s, self._stop)
        self._schedule.start()

    def _look(self) -> None:
        self._looks.append(Look(monotonic(), len(self._latencies_ms), sum(self._counts.refusals.values())))

    def _end_window(self) -> None:
        self._acked_in_window = self._counts.acked
        self._overdue = self._schedule.overdue()
        if self._voting:
            self._voting_cpu_s += time.process_time()

    def _stop(self) -> None:
        if self._voting:
            if not self._acked_in_window:
                self._end_window()
            self._voting = False
            self._schedule.stop()

    @staticmethod
    def _tell(news: Pipe, what: Progress | Outcome) -> None:
        with suppress(OSError):  # The parent is gone; the next read of its orders ends us.
            news.send(what)

    def _outcome(self) -> Outcome:
        last_ack_at: dict[str, float] = {}
        for voter in self._voters:
            room = voter.seat.room
            last_ack_at[room] = max(last_ack_at.get(room, 0.0), voter.last_ack_at)
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Outcome(
            ledgers=[voter.ledger for voter in self._voters],
            latencies_ms=self._latencies_ms,
            looks=self._looks,
            counts=self._counts,
            sockets=[_seen(voter) for voter in self._voters],
            last_ack_at=last_ack_at,
            acked_in_window=self._acked_in_window,
            overdue=self._overdue,
            gave_up=sum(voter.gone() for voter in self._voters),
            cpu_s=used.ru_utime + used.ru_stime,
            voting_cpu_s=max(self._voting_cpu_s, 0.0),
        )


def _seen(voter: Voter) -> SocketSeen:
    watch = voter.updates
    totals = tuple(int(part) for part in watch.totals.split(b",") if part.strip()) if watch.frames else None
    return SocketSeen(
        voter.seat.room,
        watch.frames,
        watch.max_per_s,
        totals,
        watch.totals_since,
        watch.went_back,
        voter.away_s(monotonic()),
    )


def add_counts(parts: list[Counts]) -> Counts:
    """The counts of several processes as one; any of the problems."""
    whole = Counts()
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, Counter):
                getattr(whole, name).update(value)
            elif isinstance(value, int):
                setattr(whole, name, getattr(whole, name) + value)
        whole.problem = whole.problem or part.problem
    return whole


def most_voters_per_process() -> int:
    """Sockets that one process may open, after raising its soft limit of file descriptors as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted - _SPARE_DESCRIPTORS, 1)


def process_main(plan: Plan, orders: Pipe, news: Pipe) -> None:
    """Body of a load process."""
    most_voters_per_process()
    with suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the parent decides.
        uvloop.run(Crowd(plan).run(orders, news))
