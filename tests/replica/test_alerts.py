"""From a fault to a webhook, with real figures, the real alerter and a real Alertmanager.

A handful of the catalogue, all at once; scripts/alarm-drill has all of them, one after the other.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from models.runtime.settings import load
from scripts.alarm_drill.bench import Bench
from scripts.alarm_drill.faults import CATALOGUE
from scripts.alarm_drill.webhook import Webhook
from scripts.alerts import routing
from scripts.alerts.rules import read_rules
from scripts.stack.supervision import wait_until
from tests.metric_targets import silent
from tests.own_stack import on_own_servers
from tests.replica.conftest import ReplicaStack

pytestmark = [on_own_servers, pytest.mark.timeout(300)]

# None of them disturbs an earlier one's figures; they are mended in the opposite order.
HANDFUL = ("dead-letter", "keys-old", "disk-full", "pool-filling", "worker-killed")
TWO_MINUTES_S = 120.0


@pytest.fixture
def bench(replica_stack: ReplicaStack) -> Iterator[Bench]:
    with Bench(replica_stack) as bench:
        yield bench


@pytest.mark.proves("SC-004", "US3.3", "FR-020", "E1")
def test_faults_are_told_at_a_webhook_within_two_minutes_and_end_when_they_are_mended(
    bench: Bench, webhook: Webhook
) -> None:
    faults = [CATALOGUE[name] for name in HANDFUL]
    bench.calm_down()
    began = time.monotonic()

    def missing(status: str, since: float) -> list[str]:
        return [fault.name for fault in faults if webhook.first(fault.alert, status, since) is None]

    with ExitStack() as all_at_once:
        for fault in faults:
            all_at_once.enter_context(fault.hold(bench))
        wait_until(lambda: not missing("firing", began), TWO_MINUTES_S, f"untold of {HANDFUL}")
        mended = time.monotonic()
    wait_until(lambda: not missing("resolved", mended), TWO_MINUTES_S, f"not resolved of {HANDFUL}")
    assert webhook.first("DeadMansSwitch", "firing", 0) is not None
    # A pool that fills is told before any call has failed for it.
    assert webhook.first("PoolExhausted", "firing", began) is None
    missed = webhook.first("NoWorkers", "firing", began)
    assert missed is not None and missed.annotations["runbook"] == "nomad/runbook.md#noworkers"
    assert (missed.labels["severity"], missed.labels["queue"]) == ("page", "votes")


@pytest.mark.proves("SC-004")
def test_every_rule_has_figures(bench: Bench) -> None:
    # Those of TLS are there when it is on, others when there is a standby, a synthetic voter or trouble with secrets.
    targets = {
        name: rule.target("votemill")
        for name, rule in read_rules().items()
        if not rule.own and "tls." not in rule.expression and "<count probe." not in rule.expression
    }
    url = bench.stack.env["GRAPHITE_URL"]
    wait_until(lambda: not silent(url, targets.values()), TWO_MINUTES_S, "a rule has no figures")


def test_alertmanager_takes_the_configuration_with_every_channel(tmp_path: Path, replica_stack: ReplicaStack) -> None:
    channels = {
        "webhook_url": "https://hooks.example/alerts",
        "slack_url": "https://hooks.slack.example/services/T/B/x",
        "pagerduty_key": "of-this-test",
        "mail_to": "people@example.com",
        "mail_from": "votemill@example.com",
        "mail_server": "mail.example.com:587",
        "mail_user": "votemill",
        "mail_password": "of-this-test",  # pragma: allowlist secret
        "watchdog_url": "https://watchdog.example/votemill",
    }
    for settings in (load().alerts, msgspec.structs.replace(load().alerts, **channels)):
        file = tmp_path / "alertmanager.yml"
        file.write_text(routing.configuration(settings))
        done = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert all(
        kind in file.read_text() for kind in ("webhook_configs", "slack_configs", "pagerduty_configs", "email_configs")
    )

    def receiver(labels: list[str]) -> str:
        command = ["amtool", "config", "routes", "test", f"--config.file={file}", *labels]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    assert receiver(["alertname=BrokerAway", "severity=page"]) == "people"
    assert receiver(["alertname=KeysOld", "severity=ticket"]) == "day"
    assert receiver(["alertname=DeadMansSwitch", "severity=none"]) == "watchdog"
