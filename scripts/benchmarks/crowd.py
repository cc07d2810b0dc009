"""Voters in processes of their own, commanded one order at a time; every order is answered when it is done."""

import asyncio
import gc
import multiprocessing
import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from scripts.benchmarks.voter import BenchVoter, Seat, Tape
from scripts.loadtest.crowd import most_voters_per_process
from scripts.loadtest.schedule import ClosedLoop, OpenLoop, Schedule

SEATS_PER_PROCESS = 5_000
HANDSHAKES_IN_FLIGHT = 100
"""Over all processes of a crowd."""
_ANSWERS_S = 30.0
_LOOK_EVERY_S = 0.01
_ORDER_S = 300.0

T = TypeVar("T")


class CrowdFailed(Exception):
    """Somebody could not come in, an answer never came, or a load process died: the run is not valid."""


@dataclass(frozen=True)
class Gather:
    """Bring these in; answered when all are seated."""

    seats: tuple[Seat, ...]
    handshakes: int


@dataclass(frozen=True)
class Vote:
    """Vote for ``window_s``: in a closed loop, or at ``rate`` votes/s over this process. Answered with ``Voted``."""

    window_s: float
    rate: float | None


@dataclass(frozen=True)
class Burst:
    """Everybody votes once, at a random moment within ``within_s``. Answered with ``Voted``."""

    within_s: float


@dataclass(frozen=True)
class Nudge:
    """The first voter has its room shown totals ``times`` times, every ``every_s`` seconds: by a vote, or (the peer) by
    ``broadcast``."""

    times: int
    every_s: float


@dataclass(frozen=True)
class Look:
    """Answered with ``Seen``, without ``choices`` and ``totals`` unless they are wanted."""

    choices: bool = True


@dataclass(frozen=True)
class Leave:
    """Everybody goes."""


@dataclass(frozen=True)
class Failure:
    """The answer to an order that could not be carried out."""

    why: str


@dataclass
class Voted:
    """What became of one window's votes. ``acked_in_window`` leaves out the answers that came after its end.

    ``began_at``, ``ended_at``: monotonic seconds, from the first vote to the last answer. ``overdue``: votes that an
    open loop should have cast by the window's end and had not.
    """

    acked: int = 0
    acked_in_window: int = 0
    overdue: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    latencies_ms: "array[float]" = field(default_factory=lambda: array("f"))
    began_at: float = 0.0
    ended_at: float = 0.0


@dataclass
class Seen:
    """Everything the voters know: ``totals`` shown last, how many screens show them and since when at the latest
    (monotonic seconds); ``choices``: participant to the option acked last."""

    connected: int = 0
    lost: int = 0
    frames: int = 0
    recorded: int = 0
    totals: dict[bytes, tuple[int, float]] = field(default_factory=dict)
    choices: dict[str, int] = field(default_factory=dict)


class Crowd:
    """The commanding side. Use as a context manager; leaving it ends the processes."""

    def __init__(self, processes: int) -> None:
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._orders: list[Pipe] = []
        self._answers: list[Pipe] = []
        self._wanted = processes
        self.size = 0

    @classmethod
    def fitting(cls, voters: int) -> "Crowd":
        """With as many processes as so many connections need."""
        return cls(-(-voters // SEATS_PER_PROCESS))

    def __enter__(self) -> "Crowd":
        context = multiprocessing.get_context("spawn")
        for number in range(1, self._wanted + 1):
            their_orders, orders = context.Pipe(duplex=False)
            answers, their_answers = context.Pipe(duplex=False)
            theirs = (their_orders, their_answers)
            process = context.Process(target=process_main, args=theirs, name=f"crowd-{number}", daemon=True)
            process.start()
            for pipe in theirs:
                pipe.close()
            self._processes.append(process)
            self._orders.append(orders)
            self._answers.append(answers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._orders + self._answers:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join(5)

    def gather(self, seats: Sequence[Seat]) -> float:
        """Seat these voters beside those that sit already; the seconds it took."""
        began = monotonic()
        parts = len(self._orders)
        handshakes = max(1, HANDSHAKES_IN_FLIGHT // parts)
        self._command([Gather(tuple(seats[part::parts]), handshakes) for part in range(parts)], object)
        self.size += len(seats)
        return monotonic() - began

    def vote(self, window_s: float, rate: float | None = None) -> Voted:
        parts = len(self._orders)
        order = Vote(window_s, rate / parts if rate else None)
        return _add_voted(self._command([order] * parts, Voted))

    def burst(self, within_s: float) -> Voted:
        return _add_voted(self._command([Burst(within_s)] * len(self._orders), Voted))

    def nudge(self, times: int, every_s: float) -> None:
        self._command([Nudge(times, every_s)], object)

    def look(self, choices: bool = True) -> Seen:
        return _add_seen(self._command([Look(choices)] * len(self._orders), Seen))

    def leave(self) -> None:
        self._command([Leave()] * len(self._orders), object)
        self.size = 0

    def _command(self, orders: Sequence[object], answer: type[T]) -> list[T]:
        try:
            for pipe, order in zip(self._orders, orders, strict=False):
                pipe.send(order)
            answers = [self._answer(pipe) for pipe in self._answers[: len(orders)]]
        except (EOFError, OSError) as error:
            raise CrowdFailed(f"a load process died: {error!r}") from None
        failed = next((each for each in answers if isinstance(each, Failure)), None)
        if failed is not None:
            raise CrowdFailed(failed.why)
        return answers

    @staticmethod
    def _answer(pipe: Pipe) -> Any:
        if not pipe.poll(_ORDER_S):
            raise CrowdFailed(f"a load process has not answered for {_ORDER_S:.0f} s")
        return pipe.recv()


def _add_voted(parts: Sequence[Voted]) -> Voted:
    whole = Voted(began_at=min(part.began_at for part in parts), ended_at=max(part.ended_at for part in parts))
    for part in parts:
        whole.acked += part.acked
        whole.acked_in_window += part.acked_in_window
        whole.overdue += part.overdue
        whole.refused += part.refused
        whole.unanswered += part.unanswered
        whole.latencies_ms += part.latencies_ms
    return whole


def _add_seen(parts: Sequence[Seen]) -> Seen:
    whole = Seen()
    for part in parts:
        whole.connected += part.connected
        whole.lost += part.lost
        whole.frames += part.frames
        whole.recorded += part.recorded
        whole.choices |= part.choices
        for totals, (screens, since) in part.totals.items():
            known, latest = whole.totals.get(totals, (0, 0.0))
            whole.totals[totals] = (known + screens, max(latest, since))
    return whole


class _Process:
    """The obeying side, on the running loop of one load process."""

    def __init__(self) -> None:
        self._tape = Tape()
        self._voters: list[BenchVoter] = []
        self._obey: dict[type, Callable[[Any], Any]] = {
            Gather: self._gather,
            Vote: self._vote,
            Burst: self._burst,
            Nudge: self._nudge,
            Look: self._look,
            Leave: self._leave,
        }

    async def run(self, orders: Pipe, answers: Pipe) -> None:
        """Serve until the other end closes ``orders``.

        A thread waits for orders: the loop would make the pipe non-blocking, and a long order comes in several pieces.
        """
        while True:
            try:
                order = await asyncio.to_thread(orders.recv)
            except (EOFError, OSError):
                return
            try:
                answer = await self._obey[type(order)](order)
            except Exception as error:
                answer = Failure(f"{type(order).__name__}: {error!r}")
            with suppress(OSError):  # Nobody is there any more, which the next read tells.
                answers.send(answer)

    async def _gather(self, order: Gather) -> bool:
        gate = asyncio.Semaphore(order.handshakes)
        newcomers = [BenchVoter(seat, self._tape) for seat in order.seats]
        self._voters += newcomers
        async with asyncio.TaskGroup() as group:
            for voter in newcomers:
                group.create_task(voter.come_in(gate), name="voter-comes")
        gc.collect()
        gc.freeze()
        return True

    async def _vote(self, order: Vote) -> Voted:
        schedule: Schedule = OpenLoop(order.rate) if order.rate else ClosedLoop()
        voted = self._begin(schedule)
        random.shuffle(self._voters)
        for voter in self._voters:
            voter.queued = False
            schedule.freed(voter)
        schedule.start()
        await asyncio.sleep(order.window_s)
        voted.acked_in_window = self._tape.acked - voted.acked
        voted.overdue = schedule.overdue()
        schedule.stop()
        return await self._end(voted)

    async def _burst(self, order: Burst) -> Voted:
        voted = self._begin(None)
        loop = asyncio.get_running_loop()
        for voter in self._voters:
            wait_s = random.random() * order.within_s
            loop.call_later(wait_s, voter.cast, monotonic() + wait_s)
        await asyncio.sleep(order.within_s)
        voted.acked_in_window = self._tape.acked - voted.acked
        return await self._end(voted)

    async def _nudge(self, order: Nudge) -> bool:
        voter = self._voters[0]
        for _ in range(order.times):
            if voter.seat.room:
                voter.cast(monotonic())
            else:
                await asyncio.wait_for(voter.ask("broadcast", {}), _ANSWERS_S)
            await asyncio.sleep(order.every_s)
        return True

    async def _look(self, order: Look) -> Seen:
        seen = Seen(lost=self._tape.lost, frames=self._tape.frames, recorded=self._tape.recorded)
        if not order.choices:
            return seen
        for voter in self._voters:
            seen.connected += voter.connected
            if voter.acked_option >= 0:
                seen.choices[voter.participant_id] = voter.acked_option
            screens, since = seen.totals.get(voter.totals, (0, 0.0))
            seen.totals[voter.totals] = (screens + 1, max(since, voter.totals_since))
        return seen

    async def _leave(self, _: Leave) -> bool:
        for position, voter in enumerate(self._voters):
            voter.leave()
            if position % 200 == 0:
                await asyncio.sleep(0.01)
        self._voters.clear()
        return True

    def _begin(self, schedule: Schedule | None) -> Voted:
        """Remember where the tape stands; ``_end`` takes the difference."""
        self._tape.latencies_ms = array("f")
        self._tape.refused = Counter()
        for voter in self._voters:
            voter.schedule = schedule
        return Voted(acked=self._tape.acked, began_at=monotonic())

    async def _end(self, voted: Voted) -> Voted:
        gives_up_at = monotonic() + _ANSWERS_S
        while (busy := sum(voter.busy for voter in self._voters)) and monotonic() < gives_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        for voter in self._voters:
            voter.schedule = None
        voted.acked = self._tape.acked - voted.acked
        voted.refused = self._tape.refused
        voted.unanswered = busy
        voted.latencies_ms = self._tape.latencies_ms
        voted.ended_at = monotonic()
        return voted


def process_main(orders: Pipe, answers: Pipe) -> None:
    """Body of a load process."""
    most_voters_per_process()
    with suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the parent decides.
        uvloop.run(_Process().run(orders, answers))


def seats(nodes: Sequence[tuple[str, int]], rooms: Sequence[str], first: int, count: int, run: str) -> list[Seat]:
    """``count`` seats numbered from ``first``, over rooms, and each room's over the nodes. No rooms: the peer."""
    if not rooms:
        return [Seat(*nodes[index % len(nodes)], "", "") for index in range(first, first + count)]
    return [
        Seat(*nodes[index // len(rooms) % len(nodes)], rooms[index % len(rooms)], f"v{index}-{run}")
        for index in range(first, first + count)
    ]
