"""The same rate on both sides, whatever the answers: how long an ack takes, and what a vote costs then."""

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Row

VOTERS = 500
RATE = 2_000.0


def run(bench: Bench) -> list[Row]:
    with bench.votemill(VOTERS) as ours, bench.peers(("insert", "tick"), VOTERS) as peers:
        bench.rounds("equal-rate", [ours, *peers], RATE)
    rows = []
    for point in ("p50", "p95"):
        mine = [turn.ack_ms[point] for turn in ours.turns]
        rows += [
            Row(
                "equal-rate",
                f"ack {point} at {RATE:.0f} votes/s",
                "ms",
                mine,
                [t.ack_ms[point] for t in p.turns],
                p.name,
            )
            for p in peers
        ] or [Row("equal-rate", f"ack {point} at {RATE:.0f} votes/s", "ms", mine)]
    stack = [turn.stack_us for turn in ours.turns]
    rows += [
        Row("equal-rate", "all servers' CPU per vote", "µs", stack, [t.stack_us for t in p.turns], p.name)
        for p in peers
    ] or [Row("equal-rate", "all servers' CPU per vote", "µs", stack)]
    return rows
