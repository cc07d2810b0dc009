"""One turn: a side's voters vote for a window, and everything it used of the machine until all is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from scripts.benchmarks.crowd import Crowd, Voted
from scripts.benchmarks.meters import Meter, busy_s
from scripts.benchmarks.results import percentile
from scripts.benchmarks.stage import Stage

_SETTLE_S = 60.0
_LOOK_EVERY_S = 0.02
_STUCK_AFTER_S = 3.0
_REFUSED_SHARE = 0.05  # Shedding is an answer too, and costs what it costs; with more of it a turn measures only that.
# Of these voters alone: in a poll of a million others, reading all of them took a second and PostgreSQL's CPU.
_STORED = """
SELECT participant_id::text, option_index FROM votes
WHERE poll_id = ANY(SELECT id FROM polls WHERE room_code = ANY(%s)) AND participant_id = ANY(%s::uuid[])
"""


class TurnInvalid(Exception):
    """Too many votes were refused, or some lost or not stored as acked: no figure of this turn may be used."""


@dataclass(frozen=True)
class Turn:
    """``votes_per_s``: until all of them are in PostgreSQL (the peer's ``noop``: until they are acked).
    ``messages``: batches of votes stored. ``cpu_us``: per vote and server, whole process trees. ``busy_cores``: of the
    whole machine, by anybody."""

    side: str
    votes: int
    votes_per_s: float
    acked_per_s: float
    settled_after_s: float
    cpu_us: dict[str, float]
    ack_ms: dict[str, float]
    frames: int
    messages: int
    overdue: int
    refused: int
    busy_cores: float

    @property
    def stack_us(self) -> float:
        """All servers of this side together, per vote."""
        return sum(self.cpu_us.values())

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass
class Side:
    """Whose turn it may be. ``settle(crowd, votes)`` returns when so many votes more are stored; ``messages()`` is how
    many batches were stored so far."""

    name: str
    crowd: Crowd
    meters: Mapping[str, Meter]
    settle: Callable[[Crowd, int], None] = lambda crowd, votes: None
    messages: Callable[[], int] = lambda: 0
    addresses: Sequence[tuple[str, int]] = ()
    turns: list[Turn] = field(default_factory=list)

    def take_turn(self, window_s: float, rate: float | None = None) -> Turn:
        """:raises TurnInvalid, CrowdFailed, ProcessGone:"""
        messages = self.messages()
        before, used, busy, began = self.crowd.look(), self.read_cpu(), busy_s(), time.monotonic()
        voted = self.crowd.vote(window_s, rate)
        self.settle(self.crowd, before.recorded + voted.acked)
        settled_at = max(time.monotonic(), voted.ended_at)
        used = {name: after - used[name] for name, after in self.read_cpu().items()}
        busy_cores = (busy_s() - busy) / (time.monotonic() - began)
        after = self.crowd.look()
        check(voted, after.lost - before.lost)
        turn = Turn(
            side=self.name,
            votes=voted.acked,
            votes_per_s=voted.acked / (settled_at - voted.began_at),
            acked_per_s=voted.acked_in_window / window_s,
            settled_after_s=settled_at - voted.ended_at,
            cpu_us={name: spent / voted.acked * 1e6 for name, spent in used.items()},
            ack_ms=spread(voted),
            frames=after.frames - before.frames,
            messages=self.messages() - messages,
            overdue=voted.overdue,
            refused=sum(voted.refused.values()),
            busy_cores=busy_cores,
        )
        self.turns.append(turn)
        return turn

    def read_cpu(self) -> dict[str, float]:
        """CPU seconds so far, by server."""
        return {name: meter.cpu_s() for name, meter in self.meters.items()}


def check(voted: Voted, lost: int) -> None:
    """:raises TurnInvalid: see there"""
    refused = sum(voted.refused.values())
    if refused > voted.acked * _REFUSED_SHARE or voted.unanswered or lost or not voted.acked:
        raise TurnInvalid(
            f"{voted.acked} votes acked, {dict(voted.refused)} refused, {voted.unanswered} unanswered, "
            f"{lost} connections lost"
        )


def spread(voted: Voted) -> dict[str, float]:
    latencies = voted.latencies_ms
    points = {f"p{percent}": percentile(latencies, percent) for percent in (50, 95, 99)}
    return points | {"max": max(latencies, default=0.0)}


def stored_by(stage: Stage, rooms: list[str]) -> Callable[[Crowd, int], None]:
    """Waits until all votes are told to be recorded, then until PostgreSQL holds each voter's last acked choice."""

    def settle(crowd: Crowd, recorded: int) -> None:
        # Told after the commit. A node may forget to tell (a bound on its memory), so this alone proves nothing.
        told, grew_at = -1, time.monotonic()
        while time.monotonic() < grew_at + _STUCK_AFTER_S:
            seen = crowd.look(choices=False).recorded
            if seen >= recorded:
                break
            if seen > told:
                told, grew_at = seen, time.monotonic()
            time.sleep(_LOOK_EVERY_S)
        wanted = crowd.look().choices
        gives_up_at = time.monotonic() + _SETTLE_S
        while True:
            stored = dict(stage.query(_STORED, (rooms, list(wanted))))
            # Nobody votes meanwhile: what is right stays so.
            wanted = {voter: option for voter, option in wanted.items() if stored.get(voter) != option}
            if not wanted:
                return
            if time.monotonic() > gives_up_at:
                raise TurnInvalid(f"{len(wanted)} voters' last acked choices are not in PostgreSQL")
            time.sleep(_LOOK_EVERY_S)

    return settle
