"""The table of outages: one row each, written to the run folder and shown at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_rows: list[dict[str, Any]] = []
COLUMNS = ("fault", "voters noticed", "longest pause", "votes acked", "votes counted")


def add(fault: str, result: dict[str, Any]) -> None:
    """Enter an outage's result; replaces an earlier one of the same fault."""
    row = {
        "fault": fault,
        "voters noticed": _noticed(result),
        "longest pause": f"{result['longest_pause_s']:.1f} s",
        "votes acked": f"{result['acked']:,}",
        "votes counted": _counted(result),
    }
    _rows[:] = [known for known in _rows if known["fault"] != fault] + [row]
    if run_dir := os.environ.get("RUN_DIR"):
        (Path(run_dir) / "outages.json").write_text(json.dumps(_rows, indent=1))


def rows() -> list[dict[str, Any]]:
    """Those of this run, in order."""
    return list(_rows)


def render(shown: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in shown]
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
