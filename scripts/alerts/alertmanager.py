"""Tells Alertmanager of alerts, by its API of version 2."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp

from models.runtime.settings import Settings
from scripts.alerts.alarms import Alarm
from scripts.alerts.rules import Rule, runbook_entry

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_LEAST_STAY_S = 60.0
_ROUNDS = 4


class Alertmanager:
    """Every member of a cluster is told everything, as they ask for; which of them notifies is their affair."""

    def __init__(self, settings: Settings, rules: Mapping[str, Rule], session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._rules = rules
        self._session = session
        self._urls = [f"{url.strip().rstrip('/')}/api/v2/alerts" for url in settings.alerts.alertmanager_url.split(",")]
        # What an alerter that has died leaves firing ends by itself.
        self._stays_s = max(_LEAST_STAY_S, _ROUNDS * settings.alerts.interval_s)

    async def tell(self, alarms: Iterable[Alarm], now: float) -> None:
        """All of them, again and again: whoever is away, or has restarted, is told in the next round."""
        alerts = [self._alert(alarm, now) for alarm in alarms]
        await asyncio.gather(*(self._post(url, alerts) for url in self._urls))

    async def _post(self, url: str, alerts: list[dict[str, Any]]) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            async with self._session.post(url, json=alerts, timeout=timeout) as answer:
                if answer.status == 200:
                    return
                error = f"status {answer.status}: {(await answer.content.read(300)).decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError) as problem:
            error = repr(problem)
        log.error("alertmanager_untold", extra={"url": url, "alerts": len(alerts), "error": error})

    def _alert(self, alarm: Alarm, now: float) -> dict[str, Any]:
        rule, settings = self._rules[alarm.rule], self._settings
        labels = {"alertname": alarm.rule, "severity": rule.severity, "service": settings.metrics.prefix}
        labels["env"] = settings.environment
        if rule.by and alarm.series:
            labels[rule.by] = alarm.series
        # The level stands in no label, or each would be another alert; and the alerter's own says nothing.
        annotations = {"summary": rule.summary, "runbook": runbook_entry(alarm.rule, settings.alerts.runbook_url)}
        if not rule.own:
            annotations["level"] = "no data" if math.isnan(alarm.level) else f"{alarm.level:g}"
        ends_at = alarm.resolved_at if alarm.resolved_at is not None else now + self._stays_s
        return {
            "labels": labels,
            "annotations": annotations,
            "startsAt": _iso(alarm.due_since),
            "endsAt": _iso(ends_at),
            "generatorURL": self._graph(rule),
        }

    def _graph(self, rule: Rule) -> str:
        """A picture of what the rule looks at."""
        base = self._settings.metrics.graphite_url.rstrip("/")
        if rule.own:
            return base
        query = {"target": rule.target(self._settings.metrics.prefix), "from": "-1h", "width": 900, "height": 450}
        return f"{base}/render?{urlencode(query)}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
