"""What fails the audit of dependencies, and what is no clean bill of health."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dependency_audit import (
    ACCEPTED,
    NPM_LOCKS,
    ROOT,
    Acceptance,
    Finding,
    NotAsked,
    accepted,
    npm_findings,
    overdue,
    parse,
    python_findings,
    remember,
)  # fmt: skip

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TWO_DAYS = timedelta(hours=48)
BAD = Finding("requirements.lock", "aiohttp", "3.0", "PYSEC-1", "high", "3.1")


def pip_audit(*vulnerable: str, skipped: bool = False) -> dict[str, Any]:
    """A report as pip-audit writes it."""
    vulns = [{"id": one, "fix_versions": ["3.1"], "aliases": [], "description": ""} for one in vulnerable]
    pika = {"skip_reason": "not on PyPI"} if skipped else {"version": "1", "vulns": []}
    second = {"name": "pika", **pika}
    return {"dependencies": [{"name": "aiohttp", "version": "3.0", "vulns": vulns}, second], "fixes": []}


def npm_audit(severity: str) -> dict[str, Any]:
    """A report as npm audit writes it: ``ws`` has the advisory, ``engine.io`` has it by way of ``ws``."""
    advisory = {"name": "ws", "url": "https://example.org/GHSA-1", "severity": severity}
    return {
        "auditReportVersion": 2,
        "vulnerabilities": {
            "ws": {"name": "ws", "severity": severity, "via": [advisory], "range": "<8.17.1"},
            "engine.io": {"name": "engine.io", "severity": severity, "via": ["ws"], "range": "*"},
        },
    }


@pytest.mark.proves("SC-005")
def test_a_high_finding_fails_when_it_has_been_known_for_48_hours(tmp_path: Path) -> None:
    # Given a finding that the scheduled audit sees for the first time
    ledger = tmp_path / "advisories.json"
    seen = remember(ledger, [BAD], NOW)
    assert overdue([BAD], [], seen, NOW, TWO_DAYS) == []
    # When it is still there 47, and then 48 hours later
    seen = remember(ledger, [BAD], NOW + timedelta(hours=47))
    assert overdue([BAD], [], seen, NOW + timedelta(hours=47), TWO_DAYS) == []
    seen = remember(ledger, [BAD], NOW + TWO_DAYS)
    # Then it fails; and once it is gone and comes back, it is new
    assert overdue([BAD], [], seen, NOW + TWO_DAYS, TWO_DAYS) == [BAD]
    remember(ledger, [], NOW + TWO_DAYS)
    again = remember(ledger, [BAD], NOW + TWO_DAYS)
    assert overdue([BAD], [], again, NOW + TWO_DAYS, TWO_DAYS) == []


@pytest.mark.proves("SC-005")
def test_without_a_grace_a_high_finding_fails_at_once_and_a_moderate_one_never() -> None:
    (high,) = npm_findings("x", npm_audit("high"))
    (moderate,) = npm_findings("x", npm_audit("moderate"))
    assert overdue([high, moderate, BAD], [], {}, NOW, timedelta()) == [high, BAD]


def test_an_acceptance_holds_until_its_date() -> None:
    excuse = Acceptance("PYSEC-1", "never called", date(2026, 5, 4))
    assert overdue([BAD], [excuse], {}, NOW, timedelta()) == []
    assert overdue([BAD], [excuse], {}, NOW + timedelta(days=1), timedelta()) == [BAD]


def test_every_acceptance_in_the_repository_is_whole(tmp_path: Path) -> None:
    assert all(each.reason for each in accepted(ACCEPTED))
    file = tmp_path / "accepted.toml"
    file.write_text('[[accepted]]\nadvisory = "PYSEC-1"\nreason = "never called"\nuntil = 2026-05-04\n')
    assert accepted(file) == [Acceptance("PYSEC-1", "never called", date(2026, 5, 4))]


def test_each_advisory_is_one_finding() -> None:
    assert python_findings(pip_audit("PYSEC-1")) == [BAD]
    assert [finding.package for finding in npm_findings("x", npm_audit("critical"))] == ["ws"]
    assert python_findings(pip_audit()) == []
    assert npm_findings("x", {"vulnerabilities": {}}) == []


@pytest.mark.parametrize("report", [pip_audit("PYSEC-1", skipped=True), {"dependencies": []}, {}])
def test_packages_that_pypi_said_nothing_about_are_not_audited(report: dict[str, Any]) -> None:
    with pytest.raises(NotAsked, match="PyPI's advisories could not be asked about"):
        python_findings(report)


def test_a_registry_that_gives_no_advisories_is_named() -> None:
    with pytest.raises(NotAsked, match=r"npm's advisories could not be asked for x: 405"):
        npm_findings("x", {"message": "405 Method Not Allowed - POST https://registry.example/bulk", "error": {}})


def test_a_grace_without_a_ledger_is_refused() -> None:
    with pytest.raises(SystemExit):
        parse(["--grace-hours", "48"])


@pytest.mark.proves("SC-005")
def test_the_pipeline_audits_on_a_schedule_and_every_lock_file_has_a_bot() -> None:
    pipeline = yaml.safe_load((ROOT / ".github/workflows/supply-chain.yml").read_text())
    assert pipeline[True]["schedule"]  # YAML 1.1 reads the key "on" as true
    steps = [step.get("run", "") for job in pipeline["jobs"].values() for step in job["steps"]]
    assert "scripts/audit-dependencies --grace-hours 48 --ledger advisories.json" in steps
    # The bot is told of the one lock file whose name it doesn't know by itself
    bot = json.loads((ROOT / "renovate.json").read_text())
    (pattern,) = bot["pip_requirements"]["managerFilePatterns"]
    assert re.fullmatch(pattern.strip("/"), "requirements.lock")
    found = {path for path in ROOT.rglob("package-lock.json") if not {".run", "node_modules", ".venv"} & {*path.parts}}
    assert {path for path in found if not any(part.startswith(".run") for part in path.parts)} == {*NPM_LOCKS}
