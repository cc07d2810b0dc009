"""500 voters in one room, as fast as they can: durable votes/s, and what a vote costs each server."""

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.peer import MODES
from scripts.benchmarks.results import Aim, Row

VOTERS = 500
_FASTER_THAN = {"tick": 4.0, "insert": 4.0, "full": 80.0}


def run(bench: Bench) -> list[Row]:
    with bench.votemill(VOTERS) as ours, bench.peers(MODES, VOTERS) as peers:
        bench.rounds("votes", [ours, *peers])
    durable = [turn.votes_per_s for turn in ours.turns]
    rows = [Row("votes", "durable votes", "1/s", durable, aims=(Aim("ours", ">=", 25_000),))]
    for peer in peers:
        if peer.name in _FASTER_THAN:
            theirs = [turn.votes_per_s for turn in peer.turns]
            faster = Aim("ratio", ">=", _FASTER_THAN[peer.name])
            rows.append(Row("votes", "durable votes", "1/s", durable, theirs, peer.name, (faster,)))
    node = [turn.cpu_us["node"] for turn in ours.turns]
    noop = [turn.cpu_us["node"] for peer in peers if peer.name == "noop" for turn in peer.turns]
    aims = (Aim("ours", "<=", 25), Aim("ratio", "<=", 1))
    rows.append(Row("votes", "node CPU per vote, 500 connections", "µs", node, noop, "noop", aims))
    rows.append(Row("votes", "worker CPU per vote", "µs", [turn.cpu_us["worker"] for turn in ours.turns]))
    inserted = [turn.cpu_us["postgres"] for peer in peers if peer.name == "insert" for turn in peer.turns]
    database = [turn.cpu_us["postgres"] for turn in ours.turns]
    rows.append(Row("votes", "PostgreSQL CPU per vote", "µs", database, inserted, "insert"))
    rows.append(Row("votes", "RabbitMQ CPU per vote", "µs", [turn.cpu_us["rabbitmq"] for turn in ours.turns]))
    rows.append(Row("votes", "Redis CPU per vote", "µs", [turn.cpu_us["redis"] for turn in ours.turns]))
    inserts = [turn.stack_us for peer in peers if peer.name == "insert" for turn in peer.turns]
    rows.append(Row("votes", "all servers' CPU per vote", "µs", [t.stack_us for t in ours.turns], inserts, "insert"))
    return rows
