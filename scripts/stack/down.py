"""scripts/down: stops exactly what scripts/up started in a run folder, in order."""

from __future__ import annotations

import argparse
import sys

from scripts.stack.progress import StepFailed, say
from scripts.stack.run_folder import RunFolder
from scripts.stack.stopping import stop_everything


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/down", description="Stop what scripts/up started; the data stays.")
    parser.add_argument("--run-dir", default=".run", help="its run folder (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="say nothing when all goes well")
    options = parser.parse_args()
    folder = RunFolder(options.run_dir)
    if not folder.processes.exists():
        if not options.quiet:
            say(f"Nothing runs in {folder.path}")
        return 0
    try:
        with folder.locked():
            found = stop_everything(folder)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    if not options.quiet:
        say(f"Stopped everything in {folder.path}" if found else f"Nothing runs in {folder.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
