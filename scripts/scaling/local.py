"""The workers of a stack of scripts/up, by its supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.scaling.actuators import NotDone, Standing
from scripts.stack.progress import StepFailed
from scripts.stack.resizing import names_of, resize
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import UNREACHABLE, Supervisor

_KINDS = {"votes": "worker", "host": "host-worker"}


class StackWorkers:
    """One at a time with scripts/rolling-restart and the others that hold the run folder."""

    tiers: tuple[str, ...] = tuple(_KINDS)

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._supervisor = Supervisor(folder)

    def standing(self, tier: str) -> Standing:
        try:
            states = self._supervisor.states()
        except UNREACHABLE as error:
            raise NotDone(f"nothing runs in {self._folder.path}: {error}") from error
        every = names_of(_KINDS[tier], states)
        running = [name for name in every if states[name] == "RUNNING"]
        return Standing(len(every), "" if len(running) == len(every) else f"{len(running)} of {len(every)} run")

    def scale(self, tier: str, before: Standing, count: int, why: str, figures: Mapping[str, Any]) -> None:
        try:
            with self._folder.locked(patience_s=0):
                if self.standing(tier) != before:
                    raise NotDone("somebody else has changed it")
                resize(self._folder, self._supervisor, _KINDS[tier], count)
        except (StepFailed, *UNREACHABLE) as error:
            raise NotDone(str(error)) from error
