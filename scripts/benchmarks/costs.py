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

    ``votes_per_batch``: votes per message at the measured rate.
    """

    measured_at: str
    machine: dict[str, Any]
    note: str
    node_us_per_vote: float
    worker_us_per_vote: float
    postgres_us_per_vote: float
    rabbitmq_us_per_vote: float
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

    :raises NotMeasured: it lacks the lines ``votes`` and ``crowd``
    """
    path.write_text(json.dumps(msgspec.to_builtins(derive(report)), indent=2) + "\n")


def derive(report: Mapping[str, Any]) -> Costs:
    """Medians over Votemill's own turns, at 10 000 connections for whatever depends on their number.

    The frames with totals that were written while they voted are taken out of the node's cost of a vote.

    :raises NotMeasured: see there
    """
    raw = report["raw"]
    crowd, votes = _ours(raw, "crowd"), _ours(raw, "votes")
    waves, broadcasts = _ours(raw, "crowd-waves"), _ours(raw, "crowd-broadcasts")

    frame_us = _median([each["us_per_frame"] for each in broadcasts])

    def of_votes(server: str) -> float:
        return _median([turn["cpu_us"][server] for turn in votes])

    return Costs(
        measured_at=report["measured_at"],
        machine=report["machine"],
        note=f"load average at the end {report['load_average_at_end']}; {report['durability']}",
        node_us_per_vote=_median(
            [turn["cpu_us"]["node"] - turn["frames"] / turn["votes"] * frame_us for turn in crowd]
        ),
        worker_us_per_vote=of_votes("worker"),
        postgres_us_per_vote=of_votes("postgres"),
        rabbitmq_us_per_vote=of_votes("rabbitmq"),
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


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)
