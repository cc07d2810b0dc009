"""The entry point refuses what can't work, in words."""

import os
import subprocess
import sys

import pytest


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "workers", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_unknown_role_is_refused():
    assert run("nonsense").returncode == 64


@pytest.mark.proves("E5", "FR-028")
def test_settings_that_cannot_work_stop_it_with_every_problem():
    result = run("votes", VOTEMILL_WORKER__THREADS="0", VOTEMILL_WORKER__TICK_S="never")
    assert result.returncode == 78
    assert "worker.threads" in result.stderr
    assert "worker.tick_s" in result.stderr


def test_importing_the_app_does_nothing():
    script = "import threading, workers.app, workers.process; assert threading.active_count() == 1"
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0
