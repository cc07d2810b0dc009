"""scripts/ctl: stops, starts and restarts single processes; one that was stopped here stays stopped.

It also adds workers and takes them away."""

from __future__ import annotations

import argparse
import sys

from scripts.stack.progress import StepFailed, say
from scripts.stack.resizing import KINDS, names_of, resize
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import Supervisor, wait_until

STARTS_WITHIN_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/ctl", description="Control single processes of a running stack.")
    parser.add_argument("action", choices=["stop", "start", "restart", "status", "scale"])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="postgres, rabbitmq, redis, haproxy, node-1, worker-1, ... (see status); for scale workers or "
        "host-workers, and how many",
    )
    parser.add_argument("--run-dir", default=".run", help="the stack's run folder (default %(default)s)")
    options = parser.parse_args()
    supervisor = Supervisor(RunFolder(options.run_dir))
    if not supervisor.is_running():
        say(f"✗ nothing runs in {options.run_dir}; scripts/up starts it")
        return 3
    if options.action == "scale":
        return scale(RunFolder(options.run_dir), supervisor, options.names)
    known = supervisor.states()
    unknown = [name for name in options.names if name not in known]
    if unknown or (options.action != "status" and not options.names):
        say(f"✗ {', '.join(unknown) or 'no name'}: choose from {', '.join(sorted(known))}")
        return 2
    try:
        return act(supervisor, options.action, options.names)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1


def act(supervisor: Supervisor, action: str, names: list[str]) -> int:
    """Do it and show the result; the exit code of ``status`` is 3 when one of the named processes is not running."""
    if action in ("stop", "restart"):
        supervisor.stop_programs(names)
    if action in ("start", "restart"):
        for name in names:
            if supervisor.states()[name] not in ("RUNNING", "STARTING"):
                supervisor.start_program(name)
        wait_until(
            lambda: all(supervisor.states()[name] == "RUNNING" for name in names),
            STARTS_WITHIN_S,
            f"{', '.join(names)} did not stay up",
        )
    shown = [row for row in supervisor.describe() if not names or row[0] in names]
    for name, state, description in shown:
        say(f"{name:<14} {state:<9} {description}")
    return 3 if action == "status" and any(state != "RUNNING" for _, state, _ in shown) else 0


def scale(folder: RunFolder, supervisor: Supervisor, words: list[str]) -> int:
    """Returns when those that were added run."""
    if len(words) != 2 or words[0] not in KINDS or not words[1].isdigit():
        say(f"✗ scale {'|'.join(KINDS)} NUMBER")
        return 2
    try:
        with folder.locked():
            added = resize(folder, supervisor, KINDS[words[0]], int(words[1]))
        wait_until(
            lambda: all(supervisor.states()[name] == "RUNNING" for name in added),
            STARTS_WITHIN_S,
            "they did not stay up",
        )
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    return act(supervisor, "status", names_of(KINDS[words[0]], supervisor.states()))


if __name__ == "__main__":
    sys.exit(main())
