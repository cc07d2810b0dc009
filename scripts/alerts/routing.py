"""scripts/alertmanager-config: Alertmanager's configuration, docker/alerts/alertmanager.yml with the settings."""

from __future__ import annotations

import json
import string
import sys
from typing import Any

from models.runtime.settings import SECTIONS, AlertSettings, load_or_exit
from scripts.stack.run_folder import ROOT

FILE = ROOT / "docker" / "alerts" / "alertmanager.yml"

_TITLE = "{{ .Status | toUpper }} {{ .CommonLabels.alertname }} ({{ .CommonLabels.env }})"
_TEXT = (
    "{{ range .Alerts }}{{ .Annotations.summary }}{{ with .Labels.instance }} {{ . }}{{ end }}"
    "{{ with .Labels.queue }} {{ . }}{{ end }} ({{ .Annotations.level }})\n{{ .Annotations.runbook }}\n{{ end }}"
)
_PAGER_SEVERITY = '{{ if eq .CommonLabels.severity "page" }}critical{{ else }}warning{{ end }}'


def configuration(settings: AlertSettings) -> str:
    """The whole file, with secrets in it. What varies is JSON, which is YAML too."""
    return string.Template(FILE.read_text()).substitute(
        group_wait=_duration(settings.group_wait_s),
        group_interval=_duration(settings.group_interval_s),
        repeat=_duration(settings.repeat_s),
        receivers=json.dumps(_receivers(settings)),
    )


def _receivers(settings: AlertSettings) -> list[dict[str, Any]]:
    day: dict[str, Any] = {}
    if settings.webhook_url:
        day["webhook_configs"] = [{"url": settings.webhook_url, "send_resolved": True}]
    if settings.slack_url:
        slack = {"api_url": settings.slack_url, "send_resolved": True, "title": _TITLE, "text": _TEXT}
        day["slack_configs"] = [slack]
    if settings.mail_to:
        mail: dict[str, Any] = {
            "to": settings.mail_to,
            "from": settings.mail_from,
            "smarthost": settings.mail_server,
            "send_resolved": True,
            "headers": {"Subject": _TITLE},
        }
        if settings.mail_user:
            mail |= {"auth_username": settings.mail_user, "auth_password": settings.mail_password}
        day["email_configs"] = [mail]
    people = dict(day)
    if settings.pagerduty_key:
        pager = {"routing_key": settings.pagerduty_key, "send_resolved": True, "severity": _PAGER_SEVERITY}
        people["pagerduty_configs"] = [pager]
    watchdog: dict[str, Any] = {}
    if settings.watchdog_url:
        watchdog["webhook_configs"] = [{"url": settings.watchdog_url, "send_resolved": False}]
    named = {"people": people, "day": day, "watchdog": watchdog}
    return [{"name": name, **channels} for name, channels in named.items()]


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def main() -> int:
    settings = load_or_exit(unused=SECTIONS.keys() - {"alerts", "secrets"})
    print(configuration(settings.alerts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
