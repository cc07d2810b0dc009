"""More or fewer workers in a running stack: each new one is described as the first of its kind, but for its name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scripts.stack.processes import MARK
from scripts.stack.program import Program, launch_file
from scripts.stack.progress import StepFailed
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import Supervisor

KINDS = {"workers": "worker", "host-workers": "host-worker"}


def names_of(kind: str, names: Iterable[str]) -> list[str]:
    """Those of a kind, by their numbers."""
    found = {int(number): name for name in names for start, _, number in [name.rpartition("-")] if start == kind}
    return [found[number] for number in sorted(found)]


def resize(folder: RunFolder, supervisor: Supervisor, kind: str, count: int) -> list[str]:
    """Have ``count`` processes of a kind, at least one; the names of those that were added, which have begun to start.

    Those with the highest numbers go, and have ended when this returns: what they had in hand is done or returned. The
    caller holds the folder.

    :raises StepFailed: one can't be added or doesn't end
    """
    present = names_of(kind, supervisor.states())
    if not present or count < 1:
        raise StepFailed(f"there must be at least one {kind}, before and afterwards")
    leaving = present[count:]
    supervisor.stop_programs(leaving)
    for name in leaving:
        supervisor.remove(name)
    numbers = (number for number in range(1, len(present) + count + 1) if f"{kind}-{number}" not in present)
    added = [f"{kind}-{next(numbers)}" for _ in range(count - len(present))]
    for name in added:
        supervisor.add(_like(folder, present[0], name))
        supervisor.start_program(name)
    return added


def _like(folder: RunFolder, model: str, name: str) -> Program:
    described = json.loads(launch_file(folder, model).read_text())
    env = {key: value for key, value in described["env"].items() if key != MARK} | {"VOTEMILL_WORKER__NAME": name}
    return Program(name, described["group"], described["argv"], env, cwd=Path(described["cwd"]), steady_after_s=3)
