"""30 000 connections on two nodes: they stay, and a vote is still acked in time."""

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row

CONNECTIONS = 30_000
PER_ROOM = 100
RATE = 2_000.0


def run(bench: Bench) -> list[Row]:
    voters = bench.scaled(CONNECTIONS)
    bench.stage.start(["node-2"])
    try:
        with bench.votemill(voters, max(1, voters // PER_ROOM), (1, 2), f"{voters} on 2 nodes") as side:
            bench.rounds("two-nodes", [side], RATE)
            seen = side.crowd.look(choices=False)
            connected = side.crowd.look().connected
    finally:
        bench.stage.stop(["node-2"])
    p95 = [turn.ack_ms["p95"] for turn in side.turns]
    return [
        Row("two-nodes", f"connections of {voters} kept", "", [connected], aims=(Aim("ours", ">=", voters),)),
        Row("two-nodes", "connections lost", "", [seen.lost], aims=(Aim("ours", "<=", 0),)),
        Row("two-nodes", f"ack p95 at {RATE:.0f} votes/s", "ms", p95),
        Row("two-nodes", "votes acked", "1/s", [turn.acked_per_s for turn in side.turns]),
    ]
