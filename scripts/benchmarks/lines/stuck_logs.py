"""What it costs that nobody takes the lines of a node and its worker, beside another pair that writes to its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.lines.synchronous import Switched
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.stage import Stage
from scripts.benchmarks.turns import Side
from scripts.stack.program import launch_file
from scripts.stack.run_folder import write_private

VOTERS = 500
_PAIR = ("node-2", "worker-2")


def run(bench: Bench) -> list[Row]:
    pipe = bench.stage.folder.path / "log-pipe"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    # Opened for reading too, so that it stays open, fills up and is never read.
    return _beside(bench, "blocked pipe", f"1<>{pipe} 2>&1") + _beside(bench, "full disk", ">/dev/full 2>&1")


def _beside(bench: Bench, name: str, redirection: str) -> list[Row]:
    with _redirected(bench.stage, redirection):
        bench.stage.start(["node-2"])
        try:
            with bench.votemill(VOTERS, name="files") as free, bench.votemill(VOTERS, nodes=(2,), name=name) as stuck:
                sides = [_with_worker(bench, side, number) for number, side in ((2, stuck), (1, free))]
                bench.rounds("stuck-logs", sides)
        finally:
            bench.stage.stop(_PAIR)
            bench.stage.start(["worker-1"])
    stuck_turns, free_turns = (side.turns for side in sides)

    def row(what: str, unit: str, figures: list[list[float]], *aims: Aim) -> Row:
        stuck_figures, free_figures = figures
        return Row("stuck-logs", f"{what}, {name}", unit, stuck_figures, free_figures, "files", aims)

    def of(figure: str) -> list[list[float]]:
        return [[getattr(turn, figure) for turn in turns] for turns in (stuck_turns, free_turns)]

    ack_ms = [[turn.ack_ms["p95"] for turn in turns] for turns in (stuck_turns, free_turns)]
    within = Aim("ratio", ">=", 0.95)
    return [row("durable votes", "1/s", of("votes_per_s"), within), row("ack p95", "ms", ack_ms)]


def _with_worker(bench: Bench, side: Side, number: int) -> Switched:
    """The side's own worker alone takes votes in its turns."""

    def switch() -> None:
        bench.stage.stop([f"worker-{3 - number}"])
        bench.stage.start([f"worker-{number}"])
        named = {"node": f"node-{number}", "worker": f"worker-{number}"}
        turn_side.meters = {role: bench.stage.meter(named.get(role, role)) for role in side.meters}

    turn_side = Switched(side.name, side.crowd, side.meters, side.settle, side.messages, switch=switch)
    return turn_side


@contextmanager
def _redirected(stage: Stage, redirection: str) -> Iterator[None]:
    """The second node and worker, while they are down, are given another stdout for their next start."""
    files = [launch_file(stage.folder, name) for name in _PAIR]
    before = [file.read_text() for file in files]
    try:
        for file in files:
            _redirect(file, redirection)
        yield
    finally:
        for file, text in zip(files, before, strict=True):
            write_private(file, text)


def _redirect(file: Path, redirection: str) -> None:
    launched = json.loads(file.read_text())
    launched["argv"] = ["/bin/sh", "-c", f'exec "$0" "$@" {redirection}', *launched["argv"]]
    write_private(file, json.dumps(launched))
