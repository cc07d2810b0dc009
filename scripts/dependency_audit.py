"""Asks the advisory databases of PyPI and npm about every locked dependency, through pip-audit and npm audit.

A high or critical finding fails at once, or with ``--grace-hours`` when it has been known for longer than that: when
each was first seen is kept in ``--ledger``. PyPI's advisories carry no severity, so all of them count as high. What
``.ci/accepted-advisories.toml`` accepts, with a reason and until a date, doesn't fail.

Exit status: 0 nothing to fail for, 1 a high finding, 2 wrong usage, 3 a database could not be asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = ROOT / ".ci" / "accepted-advisories.toml"
PYTHON_LOCK = ROOT / "requirements.lock"
NPM_LOCKS = tuple(
    ROOT / folder / "package-lock.json" for folder in ("socket_tier/web", "scripts/peers", "docker/graphite")
)
HIGH = frozenset({"high", "critical"})
_PATIENCE_S = 300


class NotAsked(Exception):
    """A database gave no answer about something: that is no clean bill of health."""


@dataclass(frozen=True, order=True)
class Finding:
    """One advisory that holds for one locked version. ``where`` is the lock file."""

    where: str
    package: str
    version: str
    advisory: str
    severity: str
    fixed_in: str = ""

    @property
    def key(self) -> str:
        return f"{self.where} {self.package} {self.advisory}"

    def __str__(self) -> str:
        fix = f", fixed in {self.fixed_in}" if self.fixed_in else ", no fix yet"
        return f"{self.severity}: {self.package} {self.version} ({self.where}): {self.advisory}{fix}"


@dataclass(frozen=True)
class Acceptance:
    """Somebody has looked at an advisory and says why it does no harm here, until a date."""

    advisory: str
    reason: str
    until: date


def main(words: Sequence[str]) -> int:
    options = parse(words)
    now = datetime.now(UTC)
    findings: list[Finding] = []
    silent: list[str] = []
    for ask in (python_report, *(lambda lock=lock: npm_report(lock) for lock in NPM_LOCKS)):
        try:
            findings += ask()
        except NotAsked as unanswered:
            silent.append(str(unanswered))
    first_seen = remember(options.ledger, findings, now) if options.ledger else {}
    failing = overdue(findings, accepted(ACCEPTED), first_seen, now, timedelta(hours=options.grace_hours))
    for finding in sorted(findings):
        print(f"{'✗' if finding in failing else '!'} {finding}")
    for reason in silent:
        print(f"✗ not audited: {reason}", file=sys.stderr)
    if not findings and not silent:
        print("✓ no advisory holds for any locked dependency")
    return 1 if failing else 3 if silent else 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/audit-dependencies", description=__doc__)
    parser.add_argument("--grace-hours", type=float, default=0.0, help="fail only for what is known for longer")
    parser.add_argument("--ledger", type=Path, help="file that keeps when each finding was first seen")
    options = parser.parse_args(words)
    if options.grace_hours and not options.ledger:
        parser.error("--grace-hours needs a --ledger")
    return options


def python_report() -> list[Finding]:
    """:raises NotAsked:"""
    command = [str(Path(sys.executable).parent / "pip-audit"), "--requirement", str(PYTHON_LOCK), "--require-hashes"]
    return python_findings(_answer([*command, "--disable-pip", "--format", "json", "--progress-spinner", "off"], ROOT))


def python_findings(report: dict[str, Any]) -> list[Finding]:
    """What pip-audit says. It exits with 0 also when it got an answer about nothing.

    :raises NotAsked: about some packages there was no answer
    """
    packages = report.get("dependencies", [])
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if unknown or not packages:
        some = f": {', '.join(unknown[:3])}, ..." if unknown else ""
        raise NotAsked(f"PyPI's advisories could not be asked about {len(unknown)} of {len(packages)} packages{some}")
    return [
        Finding("requirements.lock", each["name"], each["version"], one["id"], "high", " ".join(one["fix_versions"]))
        for each in packages
        for one in each["vulns"]
    ]


def npm_report(lock: Path) -> list[Finding]:
    """:raises NotAsked:"""
    where = str(lock.relative_to(ROOT))
    return npm_findings(where, _answer(["npm", "audit", "--package-lock-only", "--json"], lock.parent))


def npm_findings(where: str, report: dict[str, Any]) -> list[Finding]:
    """What npm audit says.

    :raises NotAsked: the registry gave no advisories
    """
    if "vulnerabilities" not in report:
        raise NotAsked(f"npm's advisories could not be asked for {where}: {report.get('message', 'no report')}")
    found = set()
    for package in report["vulnerabilities"].values():
        for cause in package["via"]:
            if isinstance(cause, dict):  # a text names another package, which has its own entry
                versions = str(package.get("range", ""))
                found.add(Finding(where, cause["name"], versions, str(cause["url"]), str(cause["severity"])))
    return sorted(found)


def _answer(command: list[str], folder: Path) -> dict[str, Any]:
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        report: dict[str, Any] = json.loads(ran.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise NotAsked(f"{Path(command[0]).name} gave no report ({type(error).__name__})") from None
    return report


def accepted(file: Path) -> list[Acceptance]:
    """Read the acceptances; an absent file has none."""
    if not file.exists():
        return []
    entries = tomllib.loads(file.read_text()).get("accepted", [])
    return [Acceptance(entry["advisory"], entry["reason"], entry["until"]) for entry in entries]


def remember(ledger: Path, findings: Iterable[Finding], now: datetime) -> dict[str, datetime]:
    """When each finding was first seen; those that are gone are forgotten."""
    known: dict[str, str] = json.loads(ledger.read_text()) if ledger.exists() else {}
    kept = {finding.key: known.get(finding.key, now.isoformat()) for finding in findings}
    ledger.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    return {key: datetime.fromisoformat(seen) for key, seen in kept.items()}


def overdue(
    findings: Iterable[Finding],
    acceptances: Iterable[Acceptance],
    first_seen: Mapping[str, datetime],
    now: datetime,
    grace: timedelta,
) -> list[Finding]:
    """What must fail: high, known for longer than the grace, and not accepted today."""
    excused = {each.advisory for each in acceptances if each.until >= now.date()}
    return [
        finding
        for finding in findings
        if finding.severity in HIGH
        and finding.advisory not in excused
        and now - first_seen.get(finding.key, now) >= grace
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
