"""SC-006: 10 000 connections in 100 rooms against 1 000 in 10, the same votes/s, each on a node of its own."""

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row

MANY, FEW = 10_000, 1_000
PER_ROOM = 100
RATE = 2_000.0


def run(bench: Bench) -> list[Row]:
    many_voters, few_voters = bench.scaled(MANY), bench.scaled(FEW)
    bench.stage.start(["node-2"])
    try:
        before_kb = bench.stage.meter("node-2").rss_kb()
        few_rooms, many_rooms = max(1, few_voters // PER_ROOM), max(1, many_voters // PER_ROOM)
        with (
            bench.votemill(few_voters, few_rooms, (1,), f"{few_voters} in {few_rooms}") as few,
            bench.votemill(many_voters, many_rooms, (2,), f"{many_voters} in {many_rooms}") as many,
        ):
            each_kb = (bench.stage.meter("node-2").rss_kb() - before_kb) / many_voters
            bench.rounds("sc006", [few, many], RATE)
    finally:
        bench.stage.stop(["node-2"])
    rates, base = [turn.acked_per_s for turn in many.turns], [turn.acked_per_s for turn in few.turns]
    stack, less = [turn.stack_us for turn in many.turns], [turn.stack_us for turn in few.turns]
    node, lesser = [turn.cpu_us["node"] for turn in many.turns], [turn.cpu_us["node"] for turn in few.turns]
    p95, quicker = [turn.ack_ms["p95"] for turn in many.turns], [turn.ack_ms["p95"] for turn in few.turns]
    later = [late - early for late, early in zip(p95, quicker, strict=True)]
    frames = [turn.frames / turn.votes for turn in many.turns]
    fewer = [turn.frames / turn.votes for turn in few.turns]
    return [
        Row("sc006", "votes acked", "1/s", rates, base, few.name, (Aim("ratio", ">=", 0.95),)),
        Row("sc006", "all servers' CPU per vote", "µs", stack, less, few.name, (Aim("ratio", "<=", 1.15),)),
        Row("sc006", "node CPU per vote", "µs", node, lesser, few.name),
        Row("sc006", "frames with totals per vote", "", frames, fewer, few.name),
        Row("sc006", "ack p95", "ms", p95, quicker, few.name),
        Row("sc006", "ack p95 later by", "ms", later, aims=(Aim("ours", "<=", 5),)),
        Row("sc006", "memory per connection", "KB", [each_kb], aims=(Aim("ours", "<=", 35),)),
    ]
