"""A stack on three brokers, under load, while the leader of the votes' queue is killed again and again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.wire import names
from scripts.faults import brokers
from scripts.faults.brokers import Broker
from scripts.faults.load import Load, Size
from scripts.faults.stack import RunningStack
from scripts.stack import ports
from scripts.stack.progress import StepFailed, say
from scripts.stack.run_folder import ROOT

_FIRST_PORT = 4300
_UP_S = 180
_SETTLE_S = 60.0
_BREATH_S = 2.0
"""Between two kills, once all members are back: two of three must live, or there is no majority to prove anything."""


def run(run_dir: Path, seconds: float, size: Size) -> dict[str, Any]:
    """Kill leaders for ``seconds``, then settle; the report of the load. Everything is taken down at the end.

    :raises StepFailed: something did not come up
    """
    with (
        brokers.running(run_dir) as members,
        _stack_on(members, run_dir / "stack") as stack,
        Load(stack, size) as load,
    ):
        load.begin()
        kills = kill_leaders(load, members, seconds)
        say(f"{kills} leaders killed")
        return load.settle(_SETTLE_S)


def kill_leaders(load: Load, members: list[Broker], seconds: float) -> int:
    """kill -9 of the leader of the votes' queue, its return, and so on; how many. All live at the end."""
    ends_at, kills = time.monotonic() + seconds, 0
    while time.monotonic() < ends_at:
        load.watch(_BREATH_S)
        leader = load.during(lambda: _leader(members))
        if leader is None:
            continue
        load.tell(f"kill -9 of the leader, {leader.name}")
        leader.victim.kill()
        kills += 1
        load.watch(1)
        load.during(leader.victim.bring_back)
    return kills


def _leader(members: list[Broker]) -> Broker | None:
    node = next((name for each in members if (name := each.leader_of(names.VOTES_QUEUE))), None)
    return next((each for each in members if each.plan.broker_node == node), None)


@contextmanager
def _stack_on(members: list[Broker], folder: Path) -> Iterator[RunningStack]:
    environment = dict(os.environ) | {"VOTEMILL_BROKER__URL": ",".join(each.url for each in members)}
    options = ["--nodes", "2", "--workers", "1", "--host-workers", "1", "--unlimited", "--detach"]
    options += ["--port", str(ports.next_free(_FIRST_PORT)), "--run-dir", str(folder)]
    done = subprocess.run([ROOT / "scripts" / "up", *options], env=environment, timeout=_UP_S, check=False)
    try:
        if done.returncode != 0:
            raise StepFailed("scripts/up failed", folder / "log")
        yield RunningStack(folder)
    finally:
        subprocess.run([ROOT / "scripts" / "down", "--quiet", "--run-dir", folder], timeout=_UP_S, check=False)
