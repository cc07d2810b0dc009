"""What is due, for how long, and since when it is told: pending, firing, resolved, as Prometheus has it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scripts.alerts.rules import Rule

log = logging.getLogger(__name__)

NO_DATA = math.nan
_MOST_ALERTS = 200  # of one rule
_RESOLVED_KEPT_S = 900.0  # told again, should Alertmanager be away when it is resolved


@dataclass
class Alarm:
    """One alert; times are seconds since the epoch. ``series``: which of its rule's."""

    rule: str
    series: str
    due_since: float
    level: float
    fires_since: float | None = None
    resolved_at: float | None = None


class Alarms:
    """The alarms of all rules. ``haste`` divides each rule's wait."""

    def __init__(self, haste: float) -> None:
        self._haste = haste
        self._alarms: dict[tuple[str, str], Alarm] = {}

    def look(self, name: str, rule: Rule, levels: Mapping[str, float], now: float) -> None:
        """Go by the levels of a rule's series as they are now. None known is what the rule says it is."""
        if not levels and rule.no_data == "keeps":
            return
        due = {series: level for series, level in levels.items() if rule.due(level)}
        if not levels and rule.no_data == "fires":
            due = {"": NO_DATA}
        for series, level in list(due.items())[:_MOST_ALERTS]:
            self._is_due(name, rule, series, level, now)
        for alarm in list(self._alarms.values()):
            if alarm.rule == name and alarm.series not in due:
                self._is_well(alarm, now)

    def told(self, now: float) -> Iterator[Alarm]:
        """Those that Alertmanager is to know of: firing, or resolved not long ago."""
        for alarm in list(self._alarms.values()):
            if alarm.resolved_at is not None and now - alarm.resolved_at > _RESOLVED_KEPT_S:
                del self._alarms[alarm.rule, alarm.series]
            elif alarm.fires_since is not None:
                yield alarm

    def _is_due(self, name: str, rule: Rule, series: str, level: float, now: float) -> None:
        alarm = self._alarms.get((name, series))
        if alarm is None or alarm.resolved_at is not None:
            alarm = self._alarms[name, series] = Alarm(name, series, now, level)
        alarm.level = level
        if alarm.fires_since is None and now - alarm.due_since >= rule.for_s / self._haste:
            alarm.fires_since = now
            log.warning("alert_fires", extra={"alert": name, "series": series, "level": level})

    def _is_well(self, alarm: Alarm, now: float) -> None:
        if alarm.fires_since is None:
            del self._alarms[alarm.rule, alarm.series]
        elif alarm.resolved_at is None:
            alarm.resolved_at = now
            log.warning("alert_resolved", extra={"alert": alarm.rule, "series": alarm.series})
