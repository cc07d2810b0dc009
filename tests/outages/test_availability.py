"""The synthetic voter's record of real outages, and the report from it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.faults.stack import RunningStack
from scripts.probing import availability
from scripts.probing.rounds import OK
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack
from tests.scripts.test_probe import WITHIN_S, ended, probing, recorded

pytestmark = second_stack
_DEADLINE_S = 2.0
_LATE_S = 15.0  # of a round on a machine that has much else to do


def works(folder: Path, name: str) -> None:
    """Wait for two rounds that begin from now on and are good."""
    now = time.time()
    wait_until(
        lambda: [found["outcome"] for found in recorded(folder, name) if found["at"] > now][-2:] == [OK, OK],
        WITHIN_S,
        f"{name} sees nothing work: {recorded(folder, name)[-3:]}",
    )


def fails(folder: Path, name: str, step: str) -> None:
    now = time.time()
    wait_until(
        lambda: any(found.get("step") == step for found in recorded(folder, name) if found["at"] > now),
        WITHIN_S,
        f"{name} didn't fail at {step}: {recorded(folder, name)[-3:]}",
    )


def reported(folder: Path, name: str, told: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What scripts/availability says, which can't be that the aims are met."""
    assert availability.main([str(folder / f"{name}.jsonl"), "--json"]) == 1
    found: dict[str, Any] = json.loads(told.readouterr().out)
    return found


@pytest.mark.proves("SC-001", "SC-008")
def test_outages_are_in_the_report_with_their_right_length(
    stack: RunningStack, base_url: str, node_urls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One probe votes through the balancer, the other at the first node alone."""
    patient = {"DEADLINE_S": str(_DEADLINE_S)}
    with probing(tmp_path, base_url, "balanced", **patient) as balanced, probing(
        tmp_path, node_urls[0], "single", **patient
    ) as single:  # fmt: skip
        works(tmp_path, "balanced")
        works(tmp_path, "single")
        # When a node and PostgreSQL die: at the other node votes are acked, but not counted
        begins = time.time()
        stack["node-1"].kill_and_hold_down()
        stack["postgres"].kill_and_hold_down()
        fails(tmp_path, "single", "connect")
        fails(tmp_path, "balanced", "counted")
        # And come back one after the other
        stack["node-1"].bring_back()
        database_back = time.time()
        stack["postgres"].bring_back()
        works(tmp_path, "single")
        works(tmp_path, "balanced")
        ended(balanced)
        ended(single)
    # Then each has seen it, for as long as it lasted
    for name, step in (("single", "connect"), ("balanced", "counted")):
        found = reported(tmp_path, name, capsys)
        outages = found["outages"]  # the balanced one may see a good round between the two deaths
        assert begins - _DEADLINE_S - 1 < outages[0]["begins"] < begins + _LATE_S
        assert database_back < outages[-1]["ends"] < database_back + 60 and outages[-1]["over"]
        assert found["down_s"] == pytest.approx(sum(outage["ends"] - outage["begins"] for outage in outages), abs=0.1)
        assert step in {line.get("step") for line in recorded(tmp_path, name)}
