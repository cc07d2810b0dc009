"""scripts/doctor: asks everything that Votemill stands on, and says what to do about what it finds.

It uses the settings of this shell, as any process does; the account of an operator can answer most. Nothing is changed,
every question has a deadline, and no secret is printed. Exit status: 0 all is well (notes need nothing), 1 warnings, or
something could not be asked, 2 something has failed, 64 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models.runtime.settings import SECTIONS, Settings, SettingsError, load
from scripts.checkup import backups, broker, cache, database, keys, machine, service
from scripts.checkup.findings import Finding, Here, Made, Status, guarded

CHECKS: dict[str, Made] = {
    "postgres": database.check,
    "rabbitmq": broker.check,
    "definitions": broker.definitions,
    "broker-clock": broker.broker_clock,
    "redis": cache.check,
    "workers": broker.workers,
    "nodes": service.check,
    "balancer": service.balancer,
    "machine": machine.check,
    "certificates": keys.certificates,
    "signing-keys": keys.signing_keys,
    "backups": backups.check,
}
_EX_USAGE = 64
_MARKS = {Status.OK: "✓", Status.NOTE: "·", Status.WARNING: "!", Status.FAILED: "✗", Status.UNKNOWN: "?"}


def main(words: Sequence[str]) -> int:
    options = parse(words)
    findings = settle(options)
    if options.json:
        print(
            json.dumps({"verdict": verdict(findings), "findings": [asdict(finding) for finding in findings]}, indent=1)
        )
    else:
        print(*(line for finding in findings for line in lines(finding)), sep="\n")
        counts = {status: sum(finding.status is status for finding in findings) for status in Status}
        print(", ".join(f"{number} {status}" for status, number in counts.items() if number))
    return verdict(findings)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = _wrong_usage  # type: ignore[method-assign, assignment]
    parser.add_argument("--run-dir", type=Path, help="the run folder of the stack on this machine")
    parser.add_argument("--url", action="append", help="a node or the service (default: those of the run folder)")
    parser.add_argument(
        "--broker-api", default="", metavar="URL", help="RabbitMQ's management interface, if it has one"
    )
    parser.add_argument("--deadline-s", type=float, default=30.0, help="for each group of questions (%(default)s)")
    parser.add_argument("--only", type=_groups, default=list(CHECKS), help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--without", type=_groups, default=[], help="all but these")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(words)


def settle(options: argparse.Namespace) -> list[Finding]:
    """Everything that is found: the settings first, then the rest if they lead anywhere."""
    findings, settings = _settings()
    if settings is None:
        return findings
    node_urls = [url for url in os.environ.get("NODE_URLS", "").split(",") if url]
    urls = options.url or node_urls or [url for url in [settings.node.public_url] if url]
    here = Here(settings, options.run_dir, tuple(url.rstrip("/") for url in urls), options.broker_api)
    chosen = {name: CHECKS[name] for name in CHECKS if name in options.only and name not in options.without}
    return findings + ask(chosen, here, options.deadline_s)


def ask(checks: dict[str, Made], here: Here, deadline_s: float) -> list[Finding]:
    """All at once, on threads that nobody waits for beyond the deadline."""
    found: dict[str, list[Finding]] = {name: [] for name in checks}

    def make(name: str) -> None:
        for finding in guarded(name, checks[name](here), here):
            found[name].append(finding)

    threads = {name: threading.Thread(target=make, args=(name,), name=name, daemon=True) for name in checks}
    for thread in threads.values():
        thread.start()
    until = time.monotonic() + deadline_s
    for name, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            found[name] = [*found[name], Finding(name, Status.UNKNOWN, f"no answer within {deadline_s:g} s")]
    return [finding for findings in found.values() for finding in findings]


def _settings() -> tuple[list[Finding], Settings | None]:
    """All problems of the settings; and settings, also where they lack what only other processes need."""
    advice = "settings.toml says what each key takes; scripts/config print shows where values come from"
    try:
        settings = load()
        return [Finding("settings", Status.OK, f"usable in {settings.environment}")], settings
    except SettingsError as error:
        findings = [Finding("settings", Status.FAILED, problem, advice) for problem in error.problems]
    try:
        return findings, load(unused=SECTIONS.keys() - {"secrets"})
    except SettingsError:
        return [*findings, Finding("servers", Status.UNKNOWN, "can't be asked with these settings")], None


def verdict(findings: Sequence[Finding]) -> int:
    """The exit status."""
    statuses = {finding.status for finding in findings}
    return 2 if Status.FAILED in statuses else int(bool(statuses & {Status.WARNING, Status.UNKNOWN}))


def lines(finding: Finding) -> list[str]:
    """One for the finding, one for what to do."""
    told = [f"{_MARKS[finding.status]} {finding.check:<26} {finding.found}"]
    return told + [f"  {'':<26} → {finding.advice}"] * bool(finding.advice)


def _groups(text: str) -> list[str]:
    unknown = [name for name in text.split(",") if name not in CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(CHECKS)}")
    return text.split(",")


def _wrong_usage(message: str) -> None:
    print(f"scripts/doctor: {message}", file=sys.stderr)
    sys.exit(_EX_USAGE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
