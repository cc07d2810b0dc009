"""The rules name only what is measured, each has its entry in the runbook, and what is due fires and ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from models.runtime.settings import load
from scripts.alerts import grafana
from scripts.alerts.alarms import Alarms
from scripts.alerts.rules import RUNBOOK, Rule, RulesError, read_rules, runbook_entry
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
from tests.metric_targets import unlisted
from tests.own_stack import plain_environment

RULES = read_rules()
SOON_S = 30


def entries() -> list[str]:
    return re.findall(r"^### (\w+)$", Path(ROOT, RUNBOOK).read_text(), re.MULTILINE)


@pytest.mark.proves("FR-017", "SC-004")
def test_every_metric_in_the_rules_is_one_of_ours() -> None:
    missing = {name: unlisted([rule.expression]) for name, rule in RULES.items() if not rule.own}
    assert [name for name, metrics in missing.items() if metrics] == []
    assert unlisted(["rate node.votes.acepted"])


@pytest.mark.proves("SC-004")
def test_each_rule_has_its_entry_in_the_runbook_and_each_entry_its_rule() -> None:
    assert sorted(entries()) == sorted(RULES)
    text = Path(ROOT, RUNBOOK).read_text()
    for entry in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name = entry.partition("\n")[0]
        assert "**Means**" in entry and ("**Do**" in entry or "**do**" in entry), name
        assert "**Look**" in entry, name
        assert runbook_entry(name) == f"{RUNBOOK}#{name.lower()}"
    for anchor in re.findall(r"\]\(#(\w+)\)", text):
        assert anchor in map(str.lower, RULES), anchor


def test_what_operators_are_promised_has_a_rule() -> None:
    wanted = {
        "ErrorShare", "ServerErrors", "AcksSlow", "Backlog", "CommandsAge", "DeadLetters", "NoWorkers", "NoData",
        "BreakerOpen", "DatabaseSlow", "PoolFilling", "PoolExhausted", "TallyWrong", "FinalsLate", "DiskFilling",
        "KeysOld", "CertificateExpires", "SecretsFailing", "ListenerDeaf", "RedisAway", "ClockSkew", "VotesShed",
        "LogsDropped", "LogsDiverted", "DeadMansSwitch",
    }  # fmt: skip
    assert wanted <= RULES.keys()
    assert all(rule.summary.endswith(".") for rule in RULES.values())
    assert RULES["NoData"].no_data == RULES["NoWorkers"].no_data == "fires"


@pytest.mark.proves("FR-020")
def test_grafana_has_the_same_rules() -> None:
    assert grafana.FILE.read_text() == grafana.provisioning(), "run scripts/grafana-alerts"
    (group,) = json.loads(grafana.provisioning())["groups"]
    assert [rule["title"] for rule in group["rules"]] == [*RULES]
    slow = next(rule for rule in group["rules"] if rule["title"] == "AcksSlow")
    assert slow["data"][0]["model"]["target"] == RULES["AcksSlow"].target(load().metrics.prefix)
    assert slow["data"][2]["model"]["conditions"][0]["evaluator"] == {"type": "gt", "params": [500]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[Slow]\nexpression = 'p95 node.votes.ack_ms'\nabove = 1\nbelow = 2", "either above or below"),
        ("[Slow]\nexpression = 'p95 node.votes.ack_ms'", "either above or below"),
        ("[Slow]\nexpression = 'p96 node.votes.ack_ms'\nabove = 1", "expected <WORD TIER.NAME>"),
        ("[slow]\nexpression = 'p95 node.votes.ack_ms'\nabove = 1", "begin with a capital"),
        ("[Slow]\nexpression = 'p95 node.votes.ack_ms'\nabowe = 1", "abowe"),
        ("[Slow", "Expected"),
    ],
)
def test_a_rule_that_is_wrong_is_refused_with_a_reason(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(f"{text}\nseverity = 'page'\nsummary = 'Slow.'\n" if "]" in text else text)
    with pytest.raises(RulesError, match=re.escape(problem)):
        read_rules(file)


def rule(**more: Any) -> Rule:
    return Rule(expression="p95 node.votes.ack_ms", severity="page", summary="Slow.", above=10, **more)


def told(alarms: Alarms, now: float) -> dict[str, bool]:
    """Whether each series that Alertmanager is to know of still fires."""
    return {alarm.series: alarm.resolved_at is None for alarm in alarms.told(now)}


def test_an_alert_fires_when_it_has_been_due_for_long_enough_and_ends_once() -> None:
    alarms = Alarms(haste=1)
    waits = rule(for_s=20)
    # Given a level that is too high, for shorter than the rule waits, and then not
    alarms.look("Slow", waits, {"": 50}, now=100)
    alarms.look("Slow", waits, {"": 50}, now=119)
    assert told(alarms, 119) == {}
    alarms.look("Slow", waits, {"": 5}, now=120)
    # When it is too high again, then the waiting begins anew
    alarms.look("Slow", waits, {"": 50}, now=130)
    alarms.look("Slow", waits, {"": 50}, now=149)
    assert told(alarms, 149) == {}
    alarms.look("Slow", waits, {"": 50}, now=150)
    assert told(alarms, 150) == {"": True}
    # And its end is told for a while, should Alertmanager be away
    alarms.look("Slow", waits, {"": 5}, now=160)
    assert told(alarms, 160) == told(alarms, 1000) == {"": False}
    assert told(alarms, 1100) == {}
    # A level at the threshold is not beyond it
    alarms.look("Slow", rule(), {"": 10}, now=1200)
    assert told(alarms, 1200) == {}


def test_each_series_is_an_alert_of_its_own_and_one_that_vanishes_ends() -> None:
    alarms = Alarms(haste=1)
    alarms.look("Slow", rule(), {"node-1": 50, "node-2": 5, "node-3": 60}, now=100)
    assert told(alarms, 100) == {"node-1": True, "node-3": True}
    alarms.look("Slow", rule(), {"node-2": 5, "node-3": 60}, now=110)
    assert told(alarms, 110) == {"node-1": False, "node-3": True}


@pytest.mark.parametrize(("no_data", "firing"), [("fine", False), ("keeps", True)])
def test_without_data_an_alert_ends_or_stays_as_the_rule_says(no_data: str, firing: bool) -> None:
    alarms = Alarms(haste=1)
    alarms.look("Slow", rule(no_data=no_data), {"": 50}, now=100)
    alarms.look("Slow", rule(no_data=no_data), {}, now=110)
    assert told(alarms, 110) == {"": firing}


def test_without_data_a_rule_may_fire() -> None:
    alarms = Alarms(haste=2)
    fires = rule(no_data="fires", for_s=20)
    alarms.look("Slow", fires, {}, now=100)
    assert told(alarms, 109) == {}
    alarms.look("Slow", fires, {}, now=110)
    assert told(alarms, 110) == {"": True}
    alarms.look("Slow", fires, {"": 5}, now=120)
    assert told(alarms, 120) == {"": False}


def test_a_thousand_series_are_no_thousand_alerts() -> None:
    alarms = Alarms(haste=1)
    alarms.look("Slow", rule(), {f"node-{number}": 50 for number in range(1000)}, now=100)
    assert len(told(alarms, 100)) == 200


class Peer:
    """What the alerter talks to, in place of Graphite and Alertmanager: answers what it is told to, and remembers."""

    def __init__(self) -> None:
        self.level: float | None = 0.0  # of acks; None: status 500
        self.hangs = threading.Event()
        self.takes_alerts = True
        self.alerts: list[dict[str, Any]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/render":
                    if peer.hangs.is_set():
                        time.sleep(60)
                    self._answer(500 if peer.level is None else 200, peer.series(parse_qs(body.decode())["target"]))
                else:
                    if peer.takes_alerts:
                        peer.alerts = json.loads(body)
                    self._answer(200 if peer.takes_alerts else 503, [])

            def _answer(self, status: int, body: object) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def series(self, targets: list[str]) -> list[dict[str, Any]]:
        """For acks alone; what is reported otherwise says that all is well."""
        found = []
        for target in targets:
            number = re.search(r"'(\d+):'\)$", target)
            assert number
            healthy = {"memory_bytes": 5e7, "consumers": 1}
            level = next((value for part, value in healthy.items() if part in target and "-1)" not in target), 0.0)
            level = self.level if "votes.ack_ms" in target else 1000.0 if "days_left" in target else level
            found.append({"target": f"{number[1]}:-", "datapoints": [[level, 1], [None, 11]]})
        return found

    def firing(self) -> set[str]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        return {one["labels"]["alertname"] for one in self.alerts if one["endsAt"] > now}


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.server.shutdown()
    peer.server.server_close()


@pytest.fixture
def alerter(peer: Peer, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "METRICS__GRAPHITE_URL": peer.url,
        "METRICS__GRAPHITE_TIMEOUT_S": "60",
        "ALERTS__ALERTMANAGER_URL": peer.url,
        "ALERTS__INTERVAL_S": "0.1",
        "ALERTS__HASTE": "60",
    }
    env = plain_environment() | {f"VOTEMILL_{name}": value for name, value in settings.items()}
    with (tmp_path / "log").open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "scripts.alerts"], env=env, cwd=ROOT, stdout=out, stderr=out)
    yield process
    process.kill()
    process.wait(10)


@pytest.mark.proves("SC-004", "US3.3")
def test_the_alerter_tells_and_goes_on_whoever_is_away(
    peer: Peer, alerter: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    always = {"DeadMansSwitch"}
    wait_until(lambda: peer.firing() == always, SOON_S, f"{peer.alerts}")
    peer.level = 900.0
    wait_until(lambda: peer.firing() == always | {"AcksSlow"}, SOON_S, f"{peer.alerts}")
    slow = next(one for one in peer.alerts if one["labels"]["alertname"] == "AcksSlow")
    assert slow["labels"]["severity"] == "page" and slow["annotations"]["level"] == "900"
    assert slow["annotations"]["runbook"] == "nomad/runbook.md#acksslow"
    # What can't be read stays as it was, and that it can't is told
    peer.level = None
    wait_until(lambda: peer.firing() == always | {"AcksSlow", "GraphiteUnread"}, SOON_S, f"{peer.alerts}")
    # What ends while Alertmanager is away is told when it is back
    peer.takes_alerts = False
    peer.level = 1.0
    log = tmp_path / "log"
    wait_until(
        lambda: {"alert_resolved", "alertmanager_untold"} <= set(re.findall(r"alert\w+", log.read_text())), SOON_S, ""
    )
    assert peer.firing() == always | {"AcksSlow", "GraphiteUnread"}
    peer.takes_alerts = True
    wait_until(lambda: peer.firing() == always, SOON_S, f"{peer.alerts}")
    assert {"AcksSlow", "GraphiteUnread"} <= {one["labels"]["alertname"] for one in peer.alerts}
    assert "graphite_unread" in log.read_text() and alerter.poll() is None


def test_the_alerter_ends_at_once_when_it_is_told_to(peer: Peer, alerter: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: bool(peer.alerts), SOON_S, "it never told anything")
    peer.hangs.set()
    time.sleep(0.5)
    began = time.monotonic()
    alerter.send_signal(signal.SIGTERM)
    assert alerter.wait(SOON_S) == 0
    assert time.monotonic() - began < SOON_S / 2


def test_the_alerter_says_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.alerts"], env=plain_environment(), cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "metrics.graphite_url, alerts.alertmanager_url" in done.stderr
