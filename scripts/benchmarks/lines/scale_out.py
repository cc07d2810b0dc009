"""SC-012: two nodes and two workers against one of each, the same voters, turn by turn."""

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.turns import Side

VOTERS = 1_000
ROOMS = 20
_SECOND = ("worker-2",)


def run(bench: Bench) -> list[Row]:
    bench.stage.start(["node-2", *_SECOND])
    try:
        with (
            bench.votemill(VOTERS, ROOMS, (1,), "1 node, 1 worker") as one,
            bench.votemill(VOTERS, ROOMS, (1, 2), "2 nodes, 2 workers") as two,
        ):
            for number in range(bench.pairs + 1):
                bench.stage.stop(_SECOND)
                _turn(bench, one, number)
                bench.stage.start(_SECOND)
                two.meters = bench.meters((1, 2), 2)
                _turn(bench, two, number)
    finally:
        bench.stage.stop(["node-2", *_SECOND])
    rates = [turn.votes_per_s for turn in two.turns]
    base = [turn.votes_per_s for turn in one.turns]
    stack = [turn.stack_us for turn in two.turns]
    return [
        Row("scale-out", two.name, "1/s", rates, base, one.name, (Aim("ratio", ">=", 1),)),
        Row("scale-out", "all servers' CPU per vote", "µs", stack, [turn.stack_us for turn in one.turns], one.name),
    ]


def _turn(bench: Bench, side: Side, number: int) -> None:
    turn = side.take_turn(bench.window_s if number else 1.0)
    if number:
        bench.tell("scale-out", number, turn)
    else:
        side.turns.clear()
