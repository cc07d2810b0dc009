"""The rules: docker/alerts/rules.toml, whose head says what each key means."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from models.runtime import graphs

RULES_FILE = Path(__file__).parents[2] / "docker" / "alerts" / "rules.toml"
RUNBOOK = "nomad/runbook.md"
OWN = ("alerter alive", "alerter unread_s")  # what the alerter knows without Graphite

_NAME = re.compile(r"([A-Z][a-z]+)+")


class RulesError(Exception):
    """The rules can't be used."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    expression: str
    severity: Literal["page", "ticket", "none"]
    summary: str
    above: float | None = None
    below: float | None = None
    by: str = ""
    take: Literal["last", "mean", "max", "min", "sum"] = "last"
    window_s: int = 60
    for_s: int = 0
    no_data: Literal["fine", "fires", "keeps"] = "fine"

    @property
    def own(self) -> bool:
        return self.expression in OWN

    def target(self, prefix: str) -> str:
        """The expression for Graphite; its series are named after what tells them apart."""
        return graphs.target(self.expression, prefix, graphs.EACH if self.by else "-")

    def due(self, level: float) -> bool:
        return level > self.above if self.above is not None else level < (self.below or 0)

    def level(self, points: list[float]) -> float:
        """Of the known points of the window, oldest first; at least one."""
        match self.take:
            case "last":
                return points[-1]
            case "mean":
                return sum(points) / len(points)
            case "max":
                return max(points)
            case "min":
                return min(points)
            case "sum":
                return sum(points)


def read_rules(file: Path = RULES_FILE) -> dict[str, Rule]:
    """By name.

    :raises RulesError: with the rule's name
    """
    try:
        rules = msgspec.convert(tomllib.loads(file.read_text()), dict[str, Rule])
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RulesError(f"{file}: {error}") from error
    for name, rule in rules.items():
        if not _NAME.fullmatch(name):
            raise RulesError(f"{name}: a name is of words that begin with a capital")
        if (rule.above is None) == (rule.below is None):
            raise RulesError(f"{name}: expected either above or below")
        if not rule.own:
            try:
                graphs.references(rule.expression)
            except graphs.GraphsError as error:
                raise RulesError(f"{name}: {error}") from error
    return rules


def runbook_entry(name: str, base: str = "") -> str:
    """Where a rule's entry in the runbook is to be read."""
    return f"{base or RUNBOOK}#{name.lower()}"
