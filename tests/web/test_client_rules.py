"""Runs the client's own rule tests, which need Node.js but no browser and no server."""

import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).with_name("client_rules.test.mjs")


@pytest.mark.proves("FR-035", "FR-040")
def test_the_browser_client_keeps_its_rules_about_versions_and_unsent_votes():
    outcome = subprocess.run(["node", "--test", str(RULES)], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
