"""Times honest voters beside slow clients, and without them, turn by turn on a stack of its own.

Every kind (see ``--list``) has ``--count`` clients that send or read about a byte a second and come again when they are
ended; ``all`` has so many of each kind at once. Limits per address are lifted, since all come from one. Exit status: 0
when with each kind the honest ack p95 stays within 25 % or 10 ms, 1 when not, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.benchmarks import meters
from scripts.benchmarks.crowd import Crowd, CrowdFailed, seats
from scripts.benchmarks.meters import Meter, ProcessGone
from scripts.benchmarks.results import number, percentile
from scripts.benchmarks.stage import Stage, StageFailed
from scripts.benchmarks.turns import TurnInvalid, check
from scripts.loadtest.rest import RestError
from scripts.slowclients.crowd import SlowCrowdFailed, slow_crowd
from scripts.slowclients.kinds import KINDS
from scripts.slowclients.wire import Target
from scripts.stack.interrupts import heed_interrupts
from scripts.stack.progress import say

ALL = "all"
MOST_RATIO, MOST_MORE_MS = 1.25, 10.0
_LOOK_EVERY_S = 0.25
_WARM_UP_S = 2.0


@dataclass(frozen=True)
class Pair:
    """One turn with slow clients, and the round's turn without. Memory of the node in MB; ``ends``: clients ended."""

    without_p95_ms: float
    with_p95_ms: float
    memory_before: float
    memory_most: float
    memory_after: float
    ends: int


@dataclass(frozen=True)
class Line:
    """What the pairs of one kind say together."""

    kind: str
    pairs: list[Pair]

    def median(self, name: str) -> float:
        return statistics.median(getattr(pair, name) for pair in self.pairs)

    @property
    def ratio(self) -> float:
        return statistics.median(pair.with_p95_ms / pair.without_p95_ms for pair in self.pairs)

    @property
    def more_ms(self) -> float:
        return statistics.median(pair.with_p95_ms - pair.without_p95_ms for pair in self.pairs)

    @property
    def met(self) -> bool:
        return self.ratio <= MOST_RATIO or self.more_ms <= MOST_MORE_MS

    def as_json(self) -> dict[str, object]:
        told = {"kind": self.kind, "ratio": self.ratio, "more_ms": self.more_ms, "met": self.met}
        return told | {"pairs": [asdict(pair) for pair in self.pairs]}


class Measurement:
    """The honest voters of one run, in one room of node 1."""

    def __init__(self, stage: Stage, crowd: Crowd, voters: int, wanted: argparse.Namespace) -> None:
        (room,) = stage.open_rooms(1)
        self._crowd = crowd
        self._wanted = wanted
        self._node = stage.meter("node-1")
        host, port = stage.addresses()[0]
        self._target = Target(host, port, room.code)
        crowd.gather(seats([(host, port)], [room.code], 0, voters, secrets.token_hex(3)))

    def beside(self, kind: str, without: float) -> Pair:
        """:raises TurnInvalid, CrowdFailed, SlowCrowdFailed, ProcessGone:"""
        kinds = list(KINDS) if kind == ALL else [kind]
        before = self._node.rss_kb()
        with slow_crowd(self._target, kinds, self._wanted.count) as ends, _peak(self._node) as most:
            beside = self.p95_ms()
        time.sleep(_WARM_UP_S)
        memory = [kilobytes / 1024 for kilobytes in (before, most[0], self._node.rss_kb())]
        return Pair(without, beside, memory[0], memory[1], memory[2], sum(ends.values()))

    def p95_ms(self) -> float:
        """The honest voters' ack p95 in one turn.

        :raises TurnInvalid, CrowdFailed:
        """
        self._crowd.vote(_WARM_UP_S, self._wanted.rate)
        before = self._crowd.look(choices=False).lost
        voted = self._crowd.vote(self._wanted.seconds, self._wanted.rate)
        check(voted, self._crowd.look(choices=False).lost - before)
        return percentile(voted.latencies_ms, 95)


@contextmanager
def _peak(meter: Meter) -> Iterator[list[float]]:
    """The most memory of a process while this is entered, in KB."""
    most, done = [meter.rss_kb()], threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY_S):
            most[0] = max(most[0], meter.rss_kb())

    looking = threading.Thread(target=look, name="memory")
    looking.start()
    try:
        yield most
    finally:
        done.set()
        looking.join()


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/slow-clients", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kind", nargs="+", default=[ALL], choices=[ALL, *KINDS], metavar="KIND")
    parser.add_argument("--count", type=int, default=500, help="slow clients of each kind (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of each turn (default %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=5, help="rounds: a turn without, then one with each kind (default %(default)s)"
    )
    parser.add_argument("--voters", type=int, default=500, help="honest voters in one room (default %(default)s)")
    parser.add_argument("--rate", type=float, default=500, help="their votes a second (default %(default)s)")
    parser.add_argument("--json", type=Path, help="all figures (default: slow-clients.json in the run folder)")
    parser.add_argument("--run-dir", type=Path, default=Path(".run-slow"), help="emptied first (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="tell the kinds and end")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    wanted = parse(words)
    if wanted.list:
        print("\n".join(f"{name:<16} {kind.__doc__}" for name, kind in KINDS.items()))
        return 0
    heed_interrupts()
    machine = meters.describe_machine()
    say(f"Machine: {machine}")
    lines = [Line(kind, []) for kind in wanted.kind]
    failed = ""
    try:
        with Stage(wanted.run_dir) as stage, Crowd.fitting(wanted.voters) as crowd:
            stage.durability().check()
            measurement = Measurement(stage, crowd, wanted.voters, wanted)
            for turn in range(1, wanted.pairs + 1):
                without = measurement.p95_ms()
                for line in lines:
                    line.pairs.append(pair := measurement.beside(line.kind, without))
                    say(f"  {line.kind} {turn}: {pair}")
            crowd.leave()
    except (StageFailed, CrowdFailed, SlowCrowdFailed, TurnInvalid, ProcessGone, RestError) as failure:
        failed = f"{type(failure).__name__}: {failure}"
    except KeyboardInterrupt:
        failed = "interrupted: what was not reached is missing"
    lines = [line for line in lines if line.pairs]
    out = wanted.json or wanted.run_dir / "slow-clients.json"
    told = {"machine": machine, "count": wanted.count, "seconds": wanted.seconds, "rate": wanted.rate, "failed": failed}
    out.write_text(json.dumps(told | {"lines": [line.as_json() for line in lines]}, indent=1) + "\n")
    print(f"\n{table(lines)}\n\nAll figures: {out}")
    if failed:
        print(f"✗ {failed}")
        return 2
    return int(not all(line.met for line in lines))


_HEAD = ("kind", "p95 without", "with", "ratio", "more", "node MB before", "most", "after", "ended", "")


def table(lines: Sequence[Line]) -> str:
    """Medians over the pairs; milliseconds and megabytes."""
    cells = [_HEAD, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cells(line: Line) -> tuple[str, ...]:
    figures = ("without_p95_ms", "with_p95_ms")
    memory = ("memory_before", "memory_most", "memory_after")
    return (
        line.kind,
        *(number(line.median(name)) for name in figures),
        f"{line.ratio:.2f}",
        f"{line.more_ms:+.1f} ms",
        *(number(line.median(name)) for name in memory),
        number(line.median("ends")),
        "met" if line.met else "MISSED",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
