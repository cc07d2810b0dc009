"""The watch that scripts/fuzz relies on finds what it is there for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzzing.watch import Watched

QUIET = '2026-11-25 07:15:30,123 INFO    socket_tier.app node_ready\n{"level": "WARNING", "event": "invalid_input"}\n'


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    log = tmp_path / "node.log"
    log.write_text("2026-11-25 07:15:29,000 ERROR   x before_the_start\n")
    made = Watched("node", os.getpid, log)
    made.begin()
    with log.open("a") as more:
        more.write(QUIET)
    return made


def test_a_process_that_lives_on_quietly_is_no_finding(watched: Watched) -> None:
    watched.sample()
    watched.memory_kb = [*range(50_000, 80_000, 500), *[80_000] * 90]
    assert watched.findings() == []


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-25 07:15:31,123 ERROR   socket_tier.events event_failed",
        '{"level": "ERROR", "event": "request_failed"}',
        "Traceback (most recent call last):",
        "Task exception was never retrieved",
    ],
)
def test_an_error_in_the_log_is_found(watched: Watched, line: str) -> None:
    with watched.log.open("a") as more:
        more.write(line + "\n")
    (finding,) = watched.findings()
    assert line in finding


def test_growth_after_the_first_part_and_a_restart_are_found(watched: Watched) -> None:
    watched.memory_kb = [*range(50_000, 150_000, 500)]
    assert "memory grew from" in watched.findings()[0]
    watched.memory_kb.clear()
    watched.pid = lambda: 1
    assert "restarted or dead" in watched.findings()[0]
