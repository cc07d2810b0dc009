"""Figures of turns, put side by side: medians, ratios of pairs, and whether an aim is met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Aim:
    """A limit on our own figure, or on the ratio of ours to theirs."""

    on: Literal["ours", "ratio"]
    relation: Literal["<=", ">="]
    limit: float

    def met(self, row: Row) -> bool | None:
        """None when there is nothing to judge, for want of a peer."""
        value = row.median_ours if self.on == "ours" else row.median_ratio
        if value is None:
            return None
        return value <= self.limit if self.relation == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{'ratio ' if self.on == 'ratio' else ''}{self.relation} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ours`` and ``theirs`` hold one figure per turn; equal places make a pair.

    ``against``: what ``theirs`` is of (a mode of the peer, or Votemill under other conditions).
    """

    line: str
    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    against: str = ""
    aims: tuple[Aim, ...] = field(default=())

    @property
    def median_ours(self) -> float:
        return statistics.median(self.ours)

    @property
    def median_theirs(self) -> float | None:
        return statistics.median(self.theirs) if self.theirs else None

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, pair by pair; pairs in which theirs is nothing are left out."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=False) if theirs]

    @property
    def median_ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        met = [aim.met(self) for aim in self.aims]
        if not met or None in met:
            return ""
        return "met" if all(met) else "MISSED"

    def as_json(self) -> dict[str, object]:
        return {
            "line": self.line,
            "what": self.what,
            "unit": self.unit,
            "ours": list(self.ours),
            "theirs": list(self.theirs),
            "against": self.against,
            "ratios": self.ratios,
            "median_ours": self.median_ours,
            "median_theirs": self.median_theirs,
            "median_ratio": self.median_ratio,
            "aims": [str(aim) for aim in self.aims],
            "verdict": self.verdict,
        }


_HEAD = ("", "what", "unit", "ours", "theirs", "ratio (min..max)", "against", "aim", "")


def table(rows: Sequence[Row]) -> str:
    """Plain text, a row each; figures are medians over the turns."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    right = {3, 4}
    lines = []
    for line in cells:
        padded = (
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = ""
    if row.median_ratio is not None:
        ratio = f"{row.median_ratio:.3g} ({min(row.ratios):.3g}..{max(row.ratios):.3g})"
    theirs = "" if row.median_theirs is None else number(row.median_theirs)
    aims = ", ".join(map(str, row.aims))
    return (row.line, row.what, row.unit, number(row.median_ours), theirs, ratio, row.against, aims, row.verdict)


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank; 0 for nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
