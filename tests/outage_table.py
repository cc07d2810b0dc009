"""The table of outages: one row each, which travels with its test's report and is shown when the run ends."""

from __future__ import annotations

from typing import Any

import pytest

COLUMNS = ("fault", "voters noticed", "longest pause", "votes acked", "votes counted")
_PROPERTY = "outage"

Row = dict[str, str]


def row(fault: str, result: dict[str, Any]) -> tuple[str, Row]:
    """An outage's result as a user property of its test."""
    return _PROPERTY, {
        "fault": fault,
        "voters noticed": _noticed(result),
        "longest pause": f"{result['longest_pause_s']:.1f} s",
        "votes acked": f"{result['acked']:,}",
        "votes counted": _counted(result),
    }


def show(reporter: pytest.TerminalReporter) -> None:
    """Print the rows that the run's tests have brought, if any."""
    reports = [report for found in reporter.stats.values() for report in found if getattr(report, "when", "") == "call"]
    rows = [value for report in reports for name, value in report.user_properties if name == _PROPERTY]
    if rows:
        reporter.section("outages")
        reporter.write_line(render(rows))


def render(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[column] for column in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _noticed(result: dict[str, Any]) -> str:
    """In a voter's words: refusals, reconnects, rejections; nothing is the best."""
    parts = [f"{count:,} refused with retryAfter ({code})" for code, count in result["refusals"].items()]
    parts += [f"{count:,} joins put off ({code})" for code, count in result["join_refusals"].items()]
    parts += [f"{count:,} rejected ({code})" for code, count in result["rejections"].items()]
    if result["reconnects"]:
        parts.append(f"{result['reconnects']:,} reconnects, {result['resent']:,} votes resent")
    return "; ".join(parts) or "nothing"


def _counted(result: dict[str, Any]) -> str:
    if not result["clean"]:
        return "NOT CLEAN"
    return "all" if not result["rejected"] else f"all but {result['rejected']:,} rejected"
