"""scripts/grafana-alerts: writes docker/grafana/provisioning/alerting from docker/alerts/rules.toml."""

from __future__ import annotations

import json
import sys
from typing import Any

from models.runtime.settings import load
from scripts.alerts.rules import Rule, read_rules, runbook_entry
from scripts.grafana_dashboards import DATASOURCE
from scripts.stack.run_folder import ROOT

FILE = ROOT / "docker" / "grafana" / "provisioning" / "alerting" / "votemill.json"

_EXPRESSION = "__expr__"  # Grafana's own data source for what is made of others'
_INTERVAL_S = 10
# What Grafana's words are for no data.
_NO_DATA = {"fine": "OK", "fires": "Alerting", "keeps": "KeepLast"}


def provisioning() -> str:
    """The file. One rule per line, so that a change shows as one."""
    prefix = load().metrics.prefix
    rules = ",\n    ".join(json.dumps(_rule(name, rule, prefix)) for name, rule in read_rules().items())
    group = f'"orgId": 1, "name": "votemill", "folder": "Votemill", "interval": "{_INTERVAL_S}s"'
    return f'{{"apiVersion": 1, "groups": [\n  {{{group}, "rules": [\n    {rules}\n  ]}}\n]}}\n'


def _rule(name: str, rule: Rule, prefix: str) -> dict[str, Any]:
    return {
        "uid": f"votemill-{name.lower()}",
        "title": name,
        "condition": "C",
        "for": f"{rule.for_s}s",
        "noDataState": _NO_DATA[rule.no_data],
        # That Graphite is away is told by one alert, whatever the others were about.
        "execErrState": "Alerting" if name == "GraphiteUnread" else "KeepLast",
        "labels": {"severity": rule.severity, "service": prefix},
        "annotations": {"summary": rule.summary, "runbook": runbook_entry(name)},
        "data": [_figures(rule, prefix), _reduced(rule), _compared(rule)],
    }


def _figures(rule: Rule, prefix: str) -> dict[str, Any]:
    # Of what an alerter knows by itself: that it lives, and that Graphite has answered.
    target = {"alerter alive": "constantLine(1)", "alerter unread_s": "constantLine(0)"}.get(rule.expression)
    model = {"refId": "A", "target": target or rule.target(prefix), "textEditor": True, "maxDataPoints": 1000}
    return {
        "refId": "A",
        "datasourceUid": DATASOURCE["uid"],
        "relativeTimeRange": {"from": rule.window_s, "to": 0},
        "model": model,
    }


def _reduced(rule: Rule) -> dict[str, Any]:
    # dropNN: points that are not known are passed over.
    settings = {"mode": "dropNN"}
    model = {"refId": "B", "type": "reduce", "expression": "A", "reducer": rule.take, "settings": settings}
    return {"refId": "B", "datasourceUid": _EXPRESSION, "model": model}


def _compared(rule: Rule) -> dict[str, Any]:
    kind, threshold = ("gt", rule.above) if rule.above is not None else ("lt", rule.below)
    conditions = [{"evaluator": {"type": kind, "params": [threshold]}}]
    model = {"refId": "C", "type": "threshold", "expression": "B", "conditions": conditions}
    return {"refId": "C", "datasourceUid": _EXPRESSION, "model": model}


def main() -> int:
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(provisioning())
    print(f"✓ {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
