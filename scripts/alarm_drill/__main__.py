"""Breaks one thing after another and demands its alert at a webhook, by a real Alertmanager, and its end when it is
mended. Exit status: 0 at least 95 % of the faults did (SC-004), 1 fewer."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis

from scripts.alarm_drill.bench import SHORT_INTERVALS, Bench, settings_for
from scripts.alarm_drill.faults import CATALOGUE, Fault, disk_of, prepare
from scripts.alarm_drill.webhook import Webhook
from scripts.faults.stack import NotRunning, RunningStack
from scripts.loadtest import rest
from scripts.stack import ports
from scripts.stack.progress import StepFailed, say
from scripts.stack.run_folder import ROOT, RunFolder

ALERTED_WITHIN_S = 120.0
RESOLVED_WITHIN_S = 240.0
_SHARE = 0.95
_PORT = "drill_webhook_port"


@dataclass(frozen=True)
class Outcome:
    """Seconds; None: not in time."""

    fault: Fault
    alerted_s: float | None
    resolved_s: float | None

    @property
    def well(self) -> bool:
        return self.alerted_s is not None and self.resolved_s is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/alarm-drill", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="only these (default: all; --list shows them)")
    parser.add_argument("--list", action="store_true", help="show the catalogue")
    parser.add_argument("--run-dir", default=".run-alarms", help="the stack's folder (default %(default)s)")
    parser.add_argument("--as-shipped", action="store_true", help="with the intervals and waits that production has")
    parser.add_argument("--keep", action="store_true", help="leave the stack running (scripts/down stops it)")
    options = parser.parse_args()
    if options.list:
        for fault in CATALOGUE.values():
            print(f"{fault.name:<22} {fault.alert}")
        return 0
    if unknown := [name for name in options.faults if name not in CATALOGUE]:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(CATALOGUE)}")
    try:
        outcomes = drill(
            [CATALOGUE[name] for name in options.faults or CATALOGUE],
            Path(options.run_dir).resolve(),
            {} if options.as_shipped else SHORT_INTERVALS,
        )
    except (StepFailed, NotRunning) as failure:
        say(f"✗ {failure}")
        return 2
    print(table(outcomes))
    return 0 if sum(one.well for one in outcomes) >= _SHARE * len(outcomes) else 1


def drill(faults: list[Fault], run_dir: Path, intervals: Mapping[str, str]) -> list[Outcome]:
    """One after the other, on a stack that is started unless it runs.

    :raises StepFailed: it can't be
    """
    folder = RunFolder(run_dir)
    folder.create()
    port = folder.remembered().get(_PORT) or ports.any_free()
    folder.remember(**{_PORT: port})
    prepare(run_dir)
    with Webhook(port) as webhook:
        _up(run_dir, {**settings_for(webhook.url, disk_of(run_dir)), **intervals})
        stack = RunningStack(run_dir)
        with Bench(stack) as bench:
            return [_one(fault, bench, webhook) for fault in faults]


def _up(run_dir: Path, settings: Mapping[str, str]) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
    env |= {f"VOTEMILL_{name}": value for name, value in settings.items()}
    command = [str(ROOT / "scripts" / "up"), "--detach", "--run-dir", str(run_dir), "--port", str(ports.any_free())]
    command += ["--nodes", "2", "--metrics", "--tls", "--unlimited"]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, timeout=280, check=False)
    if done.returncode != 0:
        raise StepFailed("scripts/up failed")


def _one(fault: Fault, bench: Bench, webhook: Webhook) -> Outcome:
    bench.calm_down()
    began = time.monotonic()
    mended = began
    try:
        with fault.hold(bench):
            alerted = _await(webhook, fault.alert, "firing", began, ALERTED_WITHIN_S)
            mended = time.monotonic()
        back = time.monotonic()
    except (
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
        rest.RestError,
        psycopg2.Error,
        redis.RedisError,
    ) as error:
        say(f"✗ {fault.name}: {error!r}")
        return Outcome(fault, None, None)
    finally:
        bench.stack.mend()
    resolved = _await(webhook, fault.alert, "resolved", mended, RESOLVED_WITHIN_S) if alerted else None
    outcome = Outcome(fault, alerted and alerted - began, max(0.0, resolved - back) if resolved is not None else None)
    say(row(outcome))
    return outcome


def _await(webhook: Webhook, alert: str, status: str, since: float, within_s: float) -> float | None:
    """When it came, in monotonic seconds."""
    deadline = since + within_s
    while time.monotonic() < deadline:
        if notice := webhook.first(alert, status, since):
            return notice.at
        time.sleep(0.1)
    return None


def table(outcomes: list[Outcome]) -> str:
    """In Markdown."""
    lines = ["| fault | alert | at the webhook after | resolved after the end |", "|---|---|---|---|"]
    lines += [row(outcome) for outcome in outcomes]
    well = sum(outcome.well for outcome in outcomes)
    return "\n".join([*lines, "", f"{well} of {len(outcomes)} faults were told within two minutes and resolved."])


def row(outcome: Outcome) -> str:
    alerted, resolved = (
        f"{seconds:.0f} s" if seconds is not None else "NOT IN TIME"
        for seconds in (outcome.alerted_s, outcome.resolved_s)
    )
    return f"| {outcome.fault.name} | {outcome.fault.alert} | {alerted} | {resolved} |"


if __name__ == "__main__":
    sys.exit(main())
