"""10 000 connections in one room of one node: arriving in waves, idle, voting, and being shown totals."""

import secrets
import time
from dataclasses import dataclass, field

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.crowd import seats
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.turns import Side
from scripts.loadtest.rest import Room
from scripts.stack.progress import say

CONNECTIONS = 10_000
WAVES = 5
BROADCAST_EVERY_S = 1.3
"""Above the tick of a room of 10 000, so that each change is one broadcast."""
_PING_INTERVAL_S = 25.0
"""Clients that came together are pinged together: only over a whole interval is idle the same as idle."""


@dataclass
class _Figures:
    per_s: list[float] = field(default_factory=list)
    connect_us: list[float] = field(default_factory=list)
    kb: list[float] = field(default_factory=list)
    broadcast_us: list[float] = field(default_factory=list)


def run(bench: Bench) -> list[Row]:
    connections = bench.scaled(CONNECTIONS)
    rooms = bench.stage.open_rooms(1)
    with (
        bench.votemill_in(rooms, connections, seated=False) as ours,
        bench.peers(("noop",), connections, seated=False) as peers,
    ):
        sides = [(ours, rooms), *((peer, []) for peer in peers)]
        figures = {side.name: _Figures() for side, _ in sides}
        for wave in range(WAVES):
            for side, where in sides:
                _arrive(bench, side, where, wave, connections // WAVES, figures[side.name])
        bench.rounds("crowd", [side for side, _ in sides])
        window_s = _PING_INTERVAL_S if bench.share == 1.0 else _PING_INTERVAL_S / 3
        idle = _idle_cores([side for side, _ in sides], window_s)
        for number in range(1, bench.pairs + 1):
            for side, _ in sides:
                _broadcast(bench, side, number, idle[side.name], window_s, figures[side.name])
    bench.stage.close_rooms(rooms)
    mine, theirs = figures[ours.name], figures.get("noop", _Figures())
    node = [turn.cpu_us["node"] for turn in ours.turns]
    noop = [turn.cpu_us["node"] for peer in peers for turn in peer.turns]
    at = f"{connections} connections"
    # Python's and V8's own 10 MB don't count: the first wave also pays for caches and pools that stay.
    return [
        Row("crowd", "joined per second", "1/s", mine.per_s, theirs.per_s, "noop, which has no join"),
        Row(
            "crowd",
            "node CPU per connect and join",
            "µs",
            mine.connect_us,
            theirs.connect_us,
            "noop, which has no join",
        ),
        Row("crowd", "memory per idle connection", "KB", mine.kb, theirs.kb, "noop", (Aim("ours", "<=", 35),)),
        Row(
            "crowd",
            f"node CPU per vote, {at}",
            "µs",
            node,
            noop,
            "noop",
            (Aim("ours", "<=", 35), Aim("ratio", "<=", 1)),
        ),
        Row(
            "crowd",
            f"node CPU per broadcast to {connections}",
            "ms",
            [spent * connections / 1000 for spent in mine.broadcast_us],
            [spent * connections / 1000 for spent in theirs.broadcast_us],
            "noop",
            (Aim("ours", "<=", 100), Aim("ratio", "<=", 1)),
        ),
    ]


def _arrive(bench: Bench, side: Side, rooms: list[Room], wave: int, count: int, figures: _Figures) -> None:
    """A wave comes in; what stays resident when it has gone quiet is what it weighs."""
    node = side.meters["node"]
    codes = [room.code for room in rooms]
    rss_kb, spent = node.rss_kb(), node.cpu_s()
    took_s = side.crowd.gather(seats(side.addresses, codes, wave * count, count, secrets.token_hex(3)))
    spent = node.cpu_s() - spent
    time.sleep(1.5)
    figures.per_s.append(count / took_s)
    figures.connect_us.append(spent / count * 1e6)
    figures.kb.append((node.rss_kb() - rss_kb) / count)
    told = f"{figures.per_s[-1]:.0f}/s, {figures.connect_us[-1]:.0f} µs and {figures.kb[-1]:.1f} KB each"
    say(f"  crowd wave {wave + 1}: {side.name:<18} {count} connections, {told}")
    bench.keep(
        "crowd-waves",
        {"side": side.name, "per_s": figures.per_s[-1], "cpu_us": figures.connect_us[-1], "kb": figures.kb[-1]},
    )


def _idle_cores(sides: list[Side], window_s: float) -> dict[str, float]:
    """Cores that each side's node uses for connections that do nothing."""
    used = {side.name: -side.meters["node"].cpu_s() for side in sides}
    time.sleep(window_s)
    return {side.name: (used[side.name] + side.meters["node"].cpu_s()) / window_s for side in sides}


def _broadcast(bench: Bench, side: Side, number: int, idle: float, window_s: float, figures: _Figures) -> None:
    """The cost of one frame to one member: the node's CPU over some broadcasts, less what it uses idle."""
    node, members = side.meters["node"], side.crowd.size
    frames, spent, began = side.crowd.look(choices=False).frames, node.cpu_s(), time.monotonic()
    side.crowd.nudge(int(window_s / BROADCAST_EVERY_S), BROADCAST_EVERY_S)
    spent = node.cpu_s() - spent - idle * (time.monotonic() - began)
    frames = side.crowd.look(choices=False).frames - frames
    figures.broadcast_us.append(spent / max(frames, 1) * 1e6)
    shown = {"side": side.name, "us_per_frame": figures.broadcast_us[-1], "frames": frames, "idle_cores": idle}
    bench.keep("crowd-broadcasts", shown | {"members": members})
    say(
        f"  crowd broadcast {number}: {side.name:<18} {frames / members:.1f} times, "
        f"{figures.broadcast_us[-1]:.2f} µs per member"
    )
