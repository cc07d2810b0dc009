"""Normal use of a crowd behind few addresses, and a spammer among them. scripts/rate-limits takes ten minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.security.conftest import ROOT, GuardedNode

VOTERS = int(os.environ.get("NORMAL_USE_VOTERS", "1000"))
ADDRESSES = int(os.environ.get("NORMAL_USE_ADDRESSES", "1"))
SECONDS = float(os.environ.get("NORMAL_USE_SECONDS", "8"))
_SECONDS_PER_VOTE = 10.0  # somebody who changes their mind all the time
_MOST_REFUSED = 0.01


def load(nodes: list[GuardedNode], *options: str) -> subprocess.Popen[str]:
    urls = [word for node in nodes for word in ("--url", node.url)]
    command = [sys.executable, "-m", "scripts.loadtest", *urls, *options, "--seconds", str(SECONDS), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report(run: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = run.communicate(timeout=SECONDS + 90)
    assert run.returncode == 0, errors + out
    told: dict[str, Any] = json.loads(out)
    return told


@pytest.mark.proves("FR-009", "SC-011")
@pytest.mark.timeout(SECONDS + 110)
def test_a_hall_behind_one_address_meets_no_refusal_and_its_spammer_does(guarded_nodes: list[GuardedNode]) -> None:
    # Given a crowd behind few addresses, everybody with an own browser
    sources = [f"127.0.1.{number}" for number in range(1, ADDRESSES + 1)]
    behind = [word for source in sources for word in ("--from", source)]
    rate = str(VOTERS / _SECONDS_PER_VOTE)
    # When all join and vote now and then, and one of them votes again with each answer
    crowd = load(guarded_nodes, "--voters", str(VOTERS), "--rate", rate, *behind)
    spammer = load(guarded_nodes[:1], "--voters", "1", "--from", sources[0])
    spam, use = report(spammer), report(crowd)
    # Then hardly anybody is refused; in a minute of a hall nobody at all
    refused = sum(use["refusals"].values()) + sum(use["join_refusals"].values())
    print(
        f"crowd: {use['acked']} of {use['sent']} acked, {refused} refused; spammer: {spam['acked']} of {spam['sent']}"
    )
    assert use["account"]["participants"] == VOTERS
    assert use["sent"] >= 0.8 * VOTERS / _SECONDS_PER_VOTE * SECONDS
    assert refused <= (_MOST_REFUSED * use["sent"] if SECONDS > 60 else 0)
    # And the spammer has had ten votes in ten seconds
    assert 10 <= spam["acked"] <= 10 * (SECONDS / 10 + 1)
    assert spam["refusals"]["rate_limited"] >= 1
