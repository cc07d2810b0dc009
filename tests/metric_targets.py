"""Whether what graphs and rules look at is measured at all: by the lists of names, and by asking a Graphite."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable
from urllib.parse import urlencode

from models.runtime.graphs import references
from scripts.probing.metrics import ProbeMetrics
from socket_tier.metrics import NodeMetrics
from workers.metrics import WorkerMetrics

NAMES = {"node": NodeMetrics.names, "workers": WorkerMetrics.names, "probe": ProbeMetrics.names}


def unlisted(expressions: Iterable[str]) -> list[str]:
    """Those with a metric that no tier has, or that has another kind of figures than is asked for."""
    return [
        expression
        for expression in expressions
        if not all(one.is_listed(NAMES[one.tier]) for one in references(expression))
    ]


def rendered(graphite_url: str, target: str, since: str = "-1h") -> list[list[float]]:
    """The known values of each series, oldest first."""
    query = urlencode({"target": target, "from": since, "format": "json"})
    with urllib.request.urlopen(f"{graphite_url}/render?{query}", timeout=10) as answer:
        series = json.load(answer)
    return [[value for value, _ in one["datapoints"] if value is not None] for one in series]


def silent(graphite_url: str, targets: Iterable[str]) -> list[str]:
    """Those of which Graphite knows no single value."""
    return [target for target in targets if not any(rendered(graphite_url, target))]
