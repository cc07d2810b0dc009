"""What an event costs, as measured: the figures that ``scripts/capacity`` multiplies."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

SHIPPED = Path(__file__).with_name("measured_costs.json")


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CPU per event of each server in microseconds, memory in KB; ``machine`` and ``measured_at`` say where and when.

    A vote costs its share of its message besides.
    """

    measured_at: str
    machine: dict[str, Any]
    note: str
    node_us_per_vote: float
    worker_us_per_vote: float
    postgres_us_per_vote: float
    rabbitmq_us_per_vote: float
    node_us_per_message: float
    worker_us_per_message: float
    postgres_us_per_message: float
    rabbitmq_us_per_message: float
    node_us_per_frame: float
    node_us_per_join: float
    node_us_per_idle_second: float
    node_kb_per_connection: float


class NotMeasured(Exception):
    """The run lacks a line that the costs need."""


def read(path: Path = SHIPPED) -> Costs:
    """:raises msgspec.DecodeError, OSError:"""
    return msgspec.json.decode(path.read_bytes(), type=Costs)


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Make the file out of a run's report.

    :raises NotMeasured: it lacks the lines ``votes``, ``equal-rate`` and ``crowd``
    """
    path.write_text(json.dumps(msgspec.to_builtins(derive(report)), indent=2) + "\n")


def derive(report: Mapping[str, Any]) -> Costs:
    """Medians over Votemill's own turns, with 10 000 voters: of a voter's many votes in one transaction only the last
    is written, so that a few voters who vote all the time cost the workers and PostgreSQL less than an audience.

    The frames with totals that were written while they voted are taken out of the node's cost of a vote. What a message
    costs is what a vote costs more in the small batches of ``equal-rate`` than in large ones: for the node those of
    ``votes``, with as many connections.

    :raises NotMeasured: see there
    """
    raw = report["raw"]
    crowd, votes, few = _ours(raw, "crowd"), _ours(raw, "votes"), _ours(raw, "equal-rate")
    waves, broadcasts = _ours(raw, "crowd-waves"), _ours(raw, "crowd-broadcasts")

    frame_us = _median([each["us_per_frame"] for each in broadcasts])

    def of_turns(server: str, turns: Sequence[Any]) -> float:
        """Per vote, without frames."""
        frames_us = frame_us if server == "node" else 0.0
        return statistics.median(turn["cpu_us"][server] - turn["frames"] / turn["votes"] * frames_us for turn in turns)

    def of_message(server: str) -> float:
        large = votes if server == "node" else crowd
        dearer_us = of_turns(server, few) - of_turns(server, large)
        return round(max(0.0, dearer_us / (_messages_per_vote(few) - _messages_per_vote(large))), 2)

    def of_vote(server: str) -> float:
        return round(max(0.0, of_turns(server, crowd) - of_message(server) * _messages_per_vote(crowd)), 2)

    return Costs(
        measured_at=report["measured_at"],
        machine=report["machine"],
        note=f"load average at the end {report['load_average_at_end']}; {report['durability']}",
        node_us_per_vote=of_vote("node"),
        worker_us_per_vote=of_vote("worker"),
        postgres_us_per_vote=of_vote("postgres"),
        rabbitmq_us_per_vote=of_vote("rabbitmq"),
        node_us_per_message=of_message("node"),
        worker_us_per_message=of_message("worker"),
        postgres_us_per_message=of_message("postgres"),
        rabbitmq_us_per_message=of_message("rabbitmq"),
        node_us_per_frame=frame_us,
        node_us_per_join=_median([each["cpu_us"] for each in waves]),
        node_us_per_idle_second=_median([each["idle_cores"] / each["members"] * 1e6 for each in broadcasts]),
        node_kb_per_connection=_median([each["kb"] for each in waves]),
    )


def _ours(raw: Mapping[str, Any], line: str) -> list[Any]:
    ours = [each for each in raw.get(line, ()) if each["side"] == "votemill"]
    if not ours:
        raise NotMeasured(f"costs need the line {line.partition('-')[0]}")
    return ours


def _messages_per_vote(turns: Sequence[Any]) -> float:
    return statistics.median(turn["messages"] / turn["votes"] for turn in turns)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)
