"""How many nodes, workers and brokers an audience needs, from measured costs, with every assumption shown."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from scripts.benchmarks import costs
from scripts.benchmarks.costs import Costs


@dataclass(frozen=True)
class Assumptions:
    """What the costs don't tell; each is an option of the command line."""

    busy: float = 0.6  # share of a core that may be used, so that peaks and a lost instance fit
    connections_per_node: int = 15_000  # of 20 000 file descriptors, the rest being room for those of a lost node
    node_memory_gb: float = 2.0
    tick_s: float = 0.2
    results_per_s: int = 4_000
    settle_s: float = 3.0  # totals may be complete this long after the burst: the queue holds what is above the workers
    database_cores: int = 32  # of the one primary
    poll_votes_per_s: float = 80_000.0  # under one poll's row lock; measured for the design
    queue_messages_per_s: float = 37_000.0  # confirmed, by one quorum queue; measured for the design
    brokers_per_cluster: int = 3
    broker_cores: int = 4  # of each broker; the leader of the votes queue and its connections use them together
    batch_votes: int = 500
    batch_wait_s: float = 0.004
    busy_votes: int = 32  # a batch of so many tells of load, and the next waits longer
    batch_wait_busy_s: float = 0.02


@dataclass(frozen=True)
class Audience:
    """Everybody votes once within ``burst_s``, spread evenly over the rooms."""

    voters: int
    rooms: int
    burst_s: float

    @property
    def votes_per_s(self) -> float:
        return self.voters / self.burst_s


@dataclass(frozen=True)
class Need:
    """One server's share: how many are needed, by which reason; ``limit`` is the audience at which it ends for good.

    ``limit`` None: more instances are always possible.
    """

    what: str
    count: int
    because: str
    limit: float | None = None


@dataclass(frozen=True)
class Estimate:
    needs: tuple[Need, ...]
    audience: Audience

    def of(self, what: str) -> Need:
        return next(need for need in self.needs if need.what == what)

    @property
    def first_to_break(self) -> Need:
        """What adding instances doesn't help, and ends at the smallest audience."""
        return min((need for need in self.needs if need.limit is not None), key=lambda need: need.limit or 0.0)


def votes_per_message(votes_per_s: float, assumed: Assumptions) -> float:
    """On one node: a batch is sent a moment after its first vote."""
    batch = 1 + votes_per_s * assumed.batch_wait_s
    if batch >= assumed.busy_votes:
        batch = 1 + votes_per_s * assumed.batch_wait_busy_s
    return min(assumed.batch_votes, batch)


def estimate(audience: Audience, cost: Costs, assumed: Assumptions | None = None) -> Estimate:
    """The fewest instances that carry the burst: acks while it lasts, complete totals ``settle_s`` after it."""
    assumed = assumed or Assumptions()
    nodes = _nodes(audience, cost, assumed)
    needs = (
        nodes,
        _workers(audience, cost, assumed, nodes.count),
        _brokers(audience, cost, assumed, nodes.count),
        _database(audience, cost, assumed, nodes.count),
        _poll(audience, assumed),
    )
    return Estimate(needs, audience)


def node_load(audience: Audience, cost: Costs, assumed: Assumptions, nodes: int) -> float:
    """Cores that one of so many nodes uses during the burst: votes, frames to its members, pings."""
    members_here = audience.voters / nodes
    # A room in which fewer than one vote per tick is cast is shown fewer totals; a node's rooms together get no more
    # frames than its ticks are stretched to.
    changes_per_s = min(1 / assumed.tick_s, audience.votes_per_s / audience.rooms)
    frames_per_s = min(members_here * changes_per_s, assumed.results_per_s)
    vote_us = cost.node_us_per_vote + cost.node_us_per_message / _batch(audience, assumed, nodes)
    votes_us = audience.votes_per_s / nodes * vote_us
    frames_us = frames_per_s * cost.node_us_per_frame
    return (votes_us + frames_us + members_here * cost.node_us_per_idle_second) / 1e6


def _nodes(audience: Audience, cost: Costs, assumed: Assumptions) -> Need:
    by_memory_each = assumed.node_memory_gb * 1e6 / cost.node_kb_per_connection
    by_connections = math.ceil(audience.voters / min(assumed.connections_per_node, by_memory_each))
    # The load per node falls as nodes are added: double, then halve the gap.
    low, high = 1, max(1, by_connections)
    while node_load(audience, cost, assumed, high) > assumed.busy:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if node_load(audience, cost, assumed, middle) > assumed.busy:
            low = middle + 1
        else:
            high = middle
    if high > by_connections:
        return Need("nodes", high, f"CPU: {node_load(audience, cost, assumed, high):.0%} of a core each in the burst")
    load = node_load(audience, cost, assumed, by_connections)
    return Need(
        "nodes", by_connections, f"connections: {audience.voters / by_connections:.0f} each, {load:.0%} of a core"
    )


def _batch(audience: Audience, assumed: Assumptions, nodes: int) -> float:
    return votes_per_message(audience.votes_per_s / nodes, assumed)


def _workers(audience: Audience, cost: Costs, assumed: Assumptions, nodes: int) -> Need:
    per_s = audience.voters / (audience.burst_s + assumed.settle_s)
    vote_us = cost.worker_us_per_vote + cost.worker_us_per_message / _batch(audience, assumed, nodes)
    count = max(1, math.ceil(per_s * vote_us / 1e6 / assumed.busy))
    return Need("workers", count, f"{_thousands(per_s)} votes/s until {assumed.settle_s:g} s after the burst")


def _brokers(audience: Audience, cost: Costs, assumed: Assumptions, nodes: int) -> Need:
    """A cluster is three. One broker leads the votes queue, so more votes mean more clusters, each with its rooms."""
    batch = _batch(audience, assumed, nodes)
    messages_per_s = audience.votes_per_s / batch
    vote_us = cost.rabbitmq_us_per_vote + cost.rabbitmq_us_per_message / batch
    by_cpu = audience.votes_per_s * vote_us / 1e6 / (assumed.busy * assumed.broker_cores)
    clusters = max(1, math.ceil(max(messages_per_s / (assumed.queue_messages_per_s * assumed.busy), by_cpu)))
    because = f"{clusters} cluster{'s' * (clusters > 1)}: {_thousands(messages_per_s)} messages/s of {batch:.0f} votes"
    return Need("brokers", clusters * assumed.brokers_per_cluster, because)


def _database(audience: Audience, cost: Costs, assumed: Assumptions, nodes: int) -> Need:
    """One primary takes every vote, however many workers there are."""
    span_s = audience.burst_s + assumed.settle_s
    vote_us = cost.postgres_us_per_vote + cost.postgres_us_per_message / _batch(audience, assumed, nodes)
    cores = audience.voters / span_s * vote_us / 1e6 / assumed.busy
    limit = assumed.database_cores * assumed.busy * 1e6 / vote_us * span_s
    return Need("database cores", max(1, math.ceil(cores)), f"of {assumed.database_cores} on one primary", limit)


def _poll(audience: Audience, assumed: Assumptions) -> Need:
    """Votes of one poll are stored one transaction after the other."""
    span_s = audience.burst_s + assumed.settle_s
    per_poll = audience.voters / audience.rooms / span_s
    limit = assumed.poll_votes_per_s * span_s * audience.rooms
    because = f"{_thousands(per_poll)} votes/s each, of {_thousands(assumed.poll_votes_per_s)} under one row lock"
    return Need("polls", audience.rooms, because, limit)


def render(result: Estimate, cost: Costs, assumed: Assumptions) -> str:
    """The answer, then what it rests on."""
    audience = result.audience
    lines = [
        f"{_thousands(audience.voters)} voters in {_thousands(audience.rooms)} rooms, "
        f"all voting within {audience.burst_s:g} s ({_thousands(audience.votes_per_s)} votes/s)",
        "",
    ]
    lines += [f"  {need.what:<15}{need.count:>7}   {need.because}" for need in result.needs]
    first = result.first_to_break
    state = "BREAKS" if (first.limit or 0) < audience.voters else "breaks first"
    lines += ["", f"{first.what}: {state}, at {_thousands(first.limit or 0)} voters in as many rooms and seconds"]
    lines += ["", f"Measured {cost.measured_at}, on {cost.machine.get('cores')} cores of {cost.machine.get('cpu')}:"]
    lines.append(f"  {cost.note}")
    figures = (each for each in cost.__struct_fields__ if each not in ("measured_at", "machine", "note"))
    lines += [f"  {name.replace('_', ' '):<28}{getattr(cost, name):>9.2f}" for name in figures]
    lines += ["", "Assumed:"]
    lines += [f"  {_words(each.name):<28}{getattr(assumed, each.name):>9g}" for each in fields(assumed)]
    return "\n".join(lines)


def _thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _words(name: str) -> str:
    return name.replace("_", " ")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/capacity", description=__doc__, allow_abbrev=False)
    parser.add_argument("--voters", type=int, required=True)
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--burst-s", type=float, default=10.0, help="all vote within so many seconds (default 10)")
    parser.add_argument("--costs", type=Path, default=costs.SHIPPED, help="a file that scripts/bench --costs wrote")
    for each in fields(Assumptions):
        option = "--" + each.name.replace("_", "-")
        parser.add_argument(option, type=type(each.default), default=each.default, help="assumed %(default)s")
    wanted = parser.parse_args(words)
    if wanted.voters < 1 or wanted.rooms < 1 or wanted.burst_s <= 0:
        parser.error("--voters, --rooms and --burst-s must be positive")
    try:
        cost = costs.read(wanted.costs)
    except (OSError, ValueError) as error:
        print(f"scripts/capacity: {wanted.costs}: {error}", file=sys.stderr)
        return 2
    assumed = Assumptions(**{each.name: getattr(wanted, each.name) for each in fields(Assumptions)})
    audience = Audience(wanted.voters, wanted.rooms, wanted.burst_s)
    result = estimate(audience, cost, assumed)
    print(render(result, cost, assumed))
    return 1 if (result.first_to_break.limit or 0) < audience.voters else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
