"""The pipeline's stages, in order. Whatever runs them, on a laptop or at GitHub, runs these commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.nomad.rules import DEPLOYMENT_LIMIT_S
from scripts.stack.run_folder import ROOT
from tests.stages import STAGES as TESTS

FOLDER = ROOT / ".run-pipeline"
PUSHED = FOLDER / "image"  # the name of what was pushed, with its digest
UNASKED = 3  # the exit status of a command that could not ask an advisory database or mirror
_TAKEN_BACK_WITHIN_S = 360  # on top of a deployment's own limit

Command = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Commands one after the other, and the time they have together.

    ``asks``: what must be reachable for it; where it isn't the stage fails, unless the caller lets it go on. ``needs``:
    options and variables without which it can't begin. ``by_name``: runs only when it is named.
    """

    name: str
    commands: tuple[Command, ...]
    limit_s: float
    asks: str = ""
    needs: tuple[str, ...] = ()
    by_name: bool = False


def stages(given: Mapping[str, str]) -> tuple[Stage, ...]:
    """All of them. ``given``: the variables of the environment, and options with their dashes."""
    return (
        Stage("lint", (("scripts/lint", "style", "imports", "source"),), 300),
        Stage("types", (("scripts/lint", "types"),), 300),
        Stage(
            "settings",
            (
                ("scripts/config", "--without-secrets", "check", "development", "test", "staging", "production"),
                ("scripts/nomad-check",),
            ),
            120,
        ),
        *(Stage(name, (("scripts/test", f"--stage={name}", "-q"),), 900) for name in TESTS),
        Stage("migrations", (("scripts/migration-check",),), 600),
        Stage("audit", (("scripts/audit-dependencies",),), 900, asks="the advisory databases of PyPI and npm"),
        Stage("image", (("scripts/image", "test"),), 1200),
        Stage("scan", (("scripts/image", "scan"),), 300, asks="Debian's mirrors"),
        Stage("sbom", (("scripts/sbom", str(FOLDER / "sbom.json"), "--with-image"),), 120),
        # To a server that answers like Nomad, with a stack of this machine in the place of the service.
        Stage("rehearsal", ((sys.executable, "-m", "tests.nomad.rehearsal"),), 300),
        Stage(
            "push",
            (("scripts/image", "push", given.get("--image", ""), str(PUSHED)),),
            600,
            needs=("--image", "REGISTRY_USER", "REGISTRY_PASSWORD"),
            by_name=True,
        ),
        Stage(
            "deploy",
            (_deploy(given),),
            DEPLOYMENT_LIMIT_S + _TAKEN_BACK_WITHIN_S,
            needs=(
                *("--environment", "--image", "NOMAD_ADDR", "NOMAD_TOKEN"),
                *("SERVICE_URL", "VOTEMILL_SECURITY__ADMIN_TOKEN"),
            ),
            by_name=True,
        ),
    )


def _deploy(given: Mapping[str, str]) -> Command:
    unrecorded = given.get("UNRECORDED", "")
    return (
        "scripts/deploy",
        *(given.get(name, "") for name in ("--environment", "--image")),
        *("--service", given.get("SERVICE_URL", "")),
        *(("--unrecorded", unrecorded) if unrecorded else ()),
    )


def chosen(every: Sequence[Stage], until: str, only: Sequence[str]) -> list[Stage]:
    """In their order: ``only`` these, or all up to ``until``, or all but those that run by name."""
    if only:
        return [stage for stage in every if stage.name in only]
    if not until:
        return [stage for stage in every if not stage.by_name]
    names = [stage.name for stage in every]
    return list(every[: names.index(until) + 1])


def lacking(stage: Stage, given: Mapping[str, str]) -> list[str]:
    """What it needs and doesn't have."""
    return [name for name in stage.needs if not given.get(name)]


def pushed_image(file: Path = PUSHED) -> str:
    """What the last push from here has made; empty when there was none."""
    return file.read_text().strip() if file.exists() else ""
