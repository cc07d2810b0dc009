"""Stacks of the tests' own beside the one that scripts/test has started, under RUN_DIR/stacks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.stack import ports
from scripts.stack.run_folder import ROOT

# Files with this mark take turns, since starting servers takes a core.
on_own_servers = pytest.mark.xdist_group("own servers")

_WITHIN_S = 110.0
_MOST_PROCESSES = 16


def side_by_side() -> bool:
    """Whether other processes run tests on the same stack at the same time."""
    return "PYTEST_XDIST_WORKER" in os.environ


def without_group(nodeid: str) -> str:
    """A test's id without the group that pytest-xdist has appended to it."""
    test, at, group = nodeid.rpartition("@")
    return nodeid if not at or "]" in group else test


def process_number() -> int:
    """The number of this process among those that run tests side by side, from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def plain_environment() -> dict[str, str]:
    """This process's environment without settings: they name the servers of the stack that all tests share."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}


def keep_to_own_ports() -> None:
    """Take ports that no other process takes, also while a server that had one is down."""
    share = (ports.LAST - ports.FIRST) // _MOST_PROCESSES
    first = ports.FIRST + process_number() % _MOST_PROCESSES * share
    os.environ["STACK_PORTS"] = f"{first}-{first + share}"


@contextmanager
def own_stack(run_dir: Path, name: str, *options: str, settings: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Run a stack with these options of scripts/up and these settings; its run folder. Nothing of it stays but logs."""
    folder = run_dir / "stacks" / f"{name}-{process_number()}"

    def run(command: str, *arguments: str) -> None:
        done = subprocess.run(
            [ROOT / "scripts" / command, "--run-dir", folder, *arguments],
            env=plain_environment() | {f"VOTEMILL_{key}": value for key, value in (settings or {}).items()},
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run("up", "--detach", "--unlimited", "--port", str(ports.any_free()), *options)
        yield folder
    finally:
        run("down")
