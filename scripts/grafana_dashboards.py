"""scripts/grafana-dashboards: writes docker/grafana/dashboards from models/runtime/graphs.toml."""

from __future__ import annotations

import json
import string
import sys
from typing import Any

from models.runtime.graphs import Board, Graph, read_boards, target
from models.runtime.settings import load
from scripts.stack.run_folder import ROOT

FOLDER = ROOT / "docker" / "grafana" / "dashboards"
DATASOURCE = {"type": "graphite", "uid": "votemill-graphite"}
UNITS = {"": "short", "1/s": "ops", "ms": "ms", "s": "s", "bytes": "bytes", "share": "percentunit", "%": "percent"}
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8  # of Grafana's 24 columns


def dashboards() -> dict[str, str]:
    """The files' texts, by name. One panel per line, so that a change shows as one."""
    prefix = load().metrics.prefix
    return {f"{board_id}.json": _text(_dashboard(board_id, board, prefix)) for board_id, board in read_boards().items()}


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    written = dashboards()
    for file in FOLDER.glob("*.json"):
        if file.name not in written:
            file.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text)
    print(f"✓ {len(written)} dashboards in {FOLDER.relative_to(ROOT)}")
    return 0


def _dashboard(board_id: str, board: Board, prefix: str) -> dict[str, Any]:
    return {
        "uid": f"votemill-{board_id}",
        "title": f"Votemill: {board.title}",
        "tags": ["votemill"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["votemill"], "title": "Votemill", "asDropdown": True}],
        "panels": [_panel(number, graph, prefix) for number, graph in enumerate(board.graphs)],
    }


def _panel(number: int, graph: Graph, prefix: str) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    custom = {"fillOpacity": 5, "showPoints": "never", "spanNulls": 60_000}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": graph.title,
        "description": graph.says,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": UNITS[graph.unit], "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": letter, "target": target(expression, prefix, label)}
            for letter, (label, expression) in zip(string.ascii_uppercase, graph.lines.items(), strict=False)
        ],
    }


def _text(dashboard: dict[str, Any]) -> str:
    panels = ",\n  ".join(json.dumps(panel) for panel in dashboard["panels"])
    rest = {name: value for name, value in dashboard.items() if name != "panels"}
    return f'{json.dumps(rest, indent=1)[:-2]},\n "panels": [\n  {panels}\n ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
