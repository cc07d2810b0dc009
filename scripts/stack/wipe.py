"""Empties a run folder whose stack is down: data, logs, secrets. The tests' results stay."""

from __future__ import annotations

import argparse
import shutil
import sys

from scripts.stack.data_folders import remove_data
from scripts.stack.progress import say
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import Supervisor

KEPT = {"proofs.json", "lock"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", required=True)
    folder = RunFolder(parser.parse_args().run_dir)
    if not folder.path.exists():
        return 0
    with folder.locked():
        if Supervisor(folder).is_running():
            say(f"✗ {folder.path} is in use; scripts/down stops it")
            return 1
        remove_data(folder)
        for entry in folder.path.iterdir():
            if entry.name in KEPT:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
