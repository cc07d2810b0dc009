"""What the version in service has: the migrations that have been applied, and what it says it uses no more."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass

from scripts.stack.run_folder import ROOT

_NAME = "RETIRED"


class UnknownVersion(Exception):
    """Git doesn't know it here."""


@dataclass(frozen=True)
class Released:
    migrations: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()


def released_at(reference: str) -> Released:
    """As git knows it: a commit, tag or branch.

    :raises UnknownVersion:
    """
    listed = _git("ls-tree", "--name-only", reference, "models/migrations/").splitlines()
    names = {path.rpartition("/")[2].removesuffix(".py") for path in listed}
    return Released(frozenset(names), retired_in(_git("show", f"{reference}:models/tables.py")))


def retired_in(source: str) -> frozenset[str]:
    """What models/tables.py names as retired; nothing in a version that doesn't know the word."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == _NAME:
            return frozenset(str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant))
    return frozenset()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise UnknownVersion(done.stderr.strip())
    return done.stdout
