"""The links between our processes and the private servers: one for each pair, so that scripts/chaos can halve it."""

from __future__ import annotations

import sys

from scripts.faults.links import Control, NoAnswer
from scripts.stack.plan import Plan, server_env
from scripts.stack.program import Program
from scripts.stack.run_folder import ROOT

NAME = "links"


def program(plan: Plan) -> Program:
    """One process for all."""
    targets = {name: plan.ports[name.rpartition(":")[2]] for name in plan.link_names}
    links = [f"{name}={plan.ports[name]}-{target}" for name, target in targets.items()]
    argv = [sys.executable, "-m", "scripts.faults.links", str(plan.ports[NAME]), *links]
    return Program(NAME, "server", argv, server_env(ROOT) | {"PYTHONPATH": str(ROOT)})


def prepare(plan: Plan) -> None:
    """Nothing is kept."""


def is_ready(plan: Plan) -> bool:
    """Whether it listens."""
    try:
        Control(plan.ports[NAME]).mend()
    except NoAnswer:
        return False
    return True
