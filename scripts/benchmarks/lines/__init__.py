"""One file per benchmark: ``run(bench)`` measures and returns its rows of the table."""

from collections.abc import Callable

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.lines import (
    burst,
    equal_rate,
    growth,
    many_connections,
    metrics,
    sc006,
    scale_out,
    statements,
    stuck_logs,
    synchronous,
    two_nodes,
    votes,
)
from scripts.benchmarks.results import Row

LINES: dict[str, Callable[[Bench], list[Row]]] = {
    "votes": votes.run,
    "equal-rate": equal_rate.run,
    "crowd": many_connections.run,
    "burst": burst.run,
    "growth": growth.run,
    "scale-out": scale_out.run,
    "sc006": sc006.run,
    "two-nodes": two_nodes.run,
    "statements": statements.run,
    "stuck-logs": stuck_logs.run,
    "synchronous": synchronous.run,
    "metrics": metrics.run,
}
"""In the order in which they run."""
