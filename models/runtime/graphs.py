"""What operators look at: graphs.toml, and what its lines are called in Graphite.

A line is an expression of Graphite's in which ``<p95 node.votes.ack_ms>`` stands for a metric of ours; a line without
``<`` is one of these alone. The word in front says what to take of the metric.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from models.runtime.metrics import Names

GRAPHS_FILE = Path(__file__).with_name("graphs.toml")

_COUNTER = "stats.counters.{prefix}.{metric}.{part}"
_TIMER = "stats.timers.{prefix}.{metric}.{part}"
_GAUGE = "stats.gauges.{prefix}.{tier}.instances.*.{name}"
# The word: the list that the metric must stand in, its series, and what is made of several instances' levels.
_WORDS = {
    "rate": ("counters", _COUNTER.replace("{part}", "rate"), ""),  # a second
    "count": ("counters", _COUNTER.replace("{part}", "count"), ""),  # in StatsD's interval
    "mean": ("timings", _TIMER.replace("{part}", "mean"), ""),
    "p50": ("timings", _TIMER.replace("{part}", "upper_50"), ""),
    "p95": ("timings", _TIMER.replace("{part}", "upper_95"), ""),
    "p99": ("timings", _TIMER.replace("{part}", "upper_99"), ""),
    "worst": ("timings", _TIMER.replace("{part}", "upper"), ""),
    "sum": ("gauges", _GAUGE, "sumSeries"),
    "highest": ("gauges", _GAUGE, "maxSeries"),
    "lowest": ("gauges", _GAUGE, "minSeries"),
    "each": ("gauges", _GAUGE, ""),
    "level": ("gauges", "stats.gauges.{prefix}.{metric}", ""),  # of one that is no instance's
}
_REFERENCE = re.compile(r"<(\w+) (node|workers|probe)\.([a-z0-9_.*-]+)>")
EACH = "*"


class GraphsError(Exception):
    """An expression can't be used."""


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``says``: what it shows and what is bad. ``lines``: expressions by their label; the label ``*`` is for several
    lines, each named after the part that differs."""

    title: str
    unit: str
    says: str
    lines: dict[str, str]


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    graphs: list[Graph]


@dataclass(frozen=True, slots=True)
class Reference:
    """One metric in an expression; ``name`` is without the tier and may have stars."""

    word: str
    tier: str
    name: str

    @property
    def kind(self) -> str:
        """The list that it must stand in: ``counters``, ``gauges`` or ``timings``."""
        return _WORDS[self.word][0]

    def series(self, prefix: str) -> str:
        _, path, _ = _WORDS[self.word]
        return path.format(prefix=prefix, metric=f"{self.tier}.{self.name}", tier=self.tier, name=self.name)

    def is_listed(self, names: Names) -> bool:
        """Whether there is such a metric; with stars, at least one."""
        known: Iterator[str] = iter(getattr(names, self.kind))
        return any(fnmatchcase(one, self.name) or fnmatchcase(self.name, one) for one in known)


def read_boards(file: Path = GRAPHS_FILE) -> dict[str, Board]:
    """By id."""
    return msgspec.convert(tomllib.loads(file.read_text()), dict[str, Board])


def references(expression: str) -> list[Reference]:
    """The metrics in an expression.

    :raises GraphsError: something else stands in brackets, or nothing
    """
    expression = expression if "<" in expression else f"<{expression}>"
    found = [Reference(*match.groups()) for match in _REFERENCE.finditer(expression)]
    unknown = [one.word for one in found if one.word not in _WORDS]
    if unknown or not found or expression.count("<") != len(found):
        raise GraphsError(f"{expression}: expected <WORD TIER.NAME> with a word of {', '.join(_WORDS)}")
    return found


def target(expression: str, prefix: str, label: str = "") -> str:
    """The expression for Graphite. ``prefix`` is the setting metrics.prefix.

    :raises GraphsError: see ``references``
    """
    found = references(expression)

    def series(match: re.Match[str]) -> str:
        one = Reference(*match.groups())
        fold = _WORDS[one.word][2]
        return f"{fold}({one.series(prefix)})" if fold else one.series(prefix)

    made = _REFERENCE.sub(series, expression if "<" in expression else f"<{expression}>")
    if not label:
        return made
    if label != EACH:
        return f"alias({made},'{label}')"
    parts = found[0].series(prefix).split(".")
    return f"aliasByNode({made},{next(i for i, part in enumerate(parts) if '*' in part)})"
