"""kill -9 of everything at once under load, then scripts/up: a machine that lost its power."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from scripts.faults.load import Load, Size
from scripts.faults.stack import RunningStack
from scripts.stack.progress import StepFailed
from scripts.stack.run_folder import ROOT

UP_WITHIN_S = 180
SETTLE_S = 60.0


def run(stack: RunningStack, seconds: float, size: Size, url: str = "") -> dict[str, Any]:
    """Vote for ``seconds``, kill everything, start it again, settle; the report of the load.

    :raises StepFailed: scripts/up failed
    """
    with Load(stack, size, url) as load:
        load.begin(seconds)
        load.tell("kill -9 of everything")
        load.during(lambda: kill_and_start(stack))
        load.tell("everything is up again")
        return load.settle(SETTLE_S)


def kill_and_start(stack: RunningStack) -> None:
    """Kill all processes of the run folder, its supervisor too, and run scripts/up with the same options.

    :raises StepFailed: it did not come up
    """
    options, environment = stack.shape(), _environment(stack)
    stack.kill_everything()
    log = stack.folder.log("up-again")
    with log.open("w") as out:
        done = subprocess.run(
            [ROOT / "scripts" / "up", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=UP_WITHIN_S,
            check=False,
        )
    if done.returncode != 0:
        raise StepFailed("scripts/up failed", log)


def _environment(stack: RunningStack) -> dict[str, str]:
    """The caller's without our settings, which may name this very stack's servers as somebody else's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
    return plain | stack.given_settings()
