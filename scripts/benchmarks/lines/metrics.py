"""What metrics cost a node at full load, and that a StatsD which is away costs nothing: three nodes, turn by turn."""

from collections.abc import Callable

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.stage import Stage
from scripts.benchmarks.turns import Turn

VOTERS = 500
_NOBODY_LISTENS = "9"  # the discard port


def run(bench: Bench) -> list[Row]:
    folder = bench.stage.folder.path
    with Stage(folder.with_name(f"{folder.name}-metrics"), "--metrics", "--nodes", "3") as stage:
        stage.restart_with("node-2", {"VOTEMILL_METRICS__STATSD_HOST": ""})
        stage.restart_with("node-3", {"VOTEMILL_METRICS__STATSD_PORT": _NOBODY_LISTENS})
        inner = Bench(stage, False, bench.pairs, bench.share, raw=bench.raw)
        with (
            inner.votemill(VOTERS, nodes=(1,), name="metrics") as on,
            inner.votemill(VOTERS, nodes=(2,), name="no metrics") as off,
            inner.votemill(VOTERS, nodes=(3,), name="StatsD away") as away,
        ):
            inner.rounds("metrics", [on, off, away])

    def row(what: str, unit: str, ours: list[Turn], figure: Callable[[Turn], float], aim: Aim) -> Row:
        return Row("metrics", what, unit, [*map(figure, ours)], [*map(figure, off.turns)], off.name, (aim,))

    return [
        row("node CPU per vote", "µs", on.turns, lambda turn: turn.cpu_us["node"], Aim("ratio", "<=", 1.02)),
        row("durable votes", "1/s", on.turns, lambda turn: turn.votes_per_s, Aim("ratio", ">=", 0.95)),
        row("durable votes, StatsD away", "1/s", away.turns, lambda turn: turn.votes_per_s, Aim("ratio", ">=", 0.95)),
    ]
