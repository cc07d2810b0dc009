"""What is being checked: a commit, and the files as they are."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from scripts.stack.run_folder import ROOT


def described() -> str:
    """The commit for people, with -dirty when files differ from it."""
    return _git("describe", "--always", "--dirty")


def tree() -> str:
    """One name for all files that git would take, changed or not: two checkouts with the same are the same."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        _git("read-tree", "HEAD", **index)
        _git("add", "--all", **index)
        return _git("write-tree", **index)


def _git(*arguments: str, **variables: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()
