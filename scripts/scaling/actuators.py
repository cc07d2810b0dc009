"""Where instances are counted, and added and taken away: Nomad, or a stack of scripts/up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.runtime import tls
from models.runtime.settings import NomadSettings
from scripts.nomad.api import Nomad, NomadError

TIERS = ("votes", "host", "nodes")
# Job and group of each, as in nomad/.
JOBS = {"votes": ("votemill-worker", "votes"), "host": ("votemill-worker", "host"), "nodes": ("votemill-node", "node")}
_ENDED = {"successful", "failed", "cancelled"}


class NotDone(Exception):
    """Whoever runs the instances is away or refuses; the message says why. Safe to do again."""


@dataclass(frozen=True)
class Standing:
    """``count`` instances are wanted. ``busy``: what is going on with them, during which nothing is changed; empty for
    nothing. ``token`` belongs to this very state."""

    count: int
    busy: str = ""
    token: int = 0


class Actuator(Protocol):
    """Each method raises NotDone."""

    tiers: tuple[str, ...]

    def standing(self, tier: str) -> Standing: ...

    def scale(self, tier: str, before: Standing, count: int, why: str, figures: Mapping[str, Any]) -> None:
        """Unless it stands otherwise than ``before``, as far as that can be told."""


class NomadJobs:
    """The jobs in nomad/, each of whose groups has a scaling block."""

    tiers: tuple[str, ...] = TIERS

    def __init__(self, settings: NomadSettings) -> None:
        self.use(settings)

    def use(self, settings: NomadSettings) -> None:
        """For calls from now on."""
        query = {"namespace": settings.namespace} | ({"region": settings.region} if settings.region else {})
        self._nomad = Nomad(
            settings.url, settings.token, tls=tls.context(settings), query=query, timeout_s=settings.timeout_s
        )

    def standing(self, tier: str) -> Standing:
        job_id, group = JOBS[tier]
        try:
            status = self._nomad.scale_status(job_id)
            deployments = self._nomad.deployments(job_id)
        except NomadError as error:
            raise NotDone(str(error)) from error
        if group not in status["TaskGroups"]:
            raise NotDone(f"{job_id} has no group {group}")
        found = status["TaskGroups"][group]
        busy = ""
        if status["JobStopped"]:
            busy = f"{job_id} is stopped"
        elif active := [each["ID"] for each in deployments if each["Status"] not in _ENDED]:
            busy = f"deployment {active[0][:8]} of {job_id} is not over"
        elif found["Running"] != found["Desired"]:
            busy = f"{found['Running']} of {found['Desired']} run"
        return Standing(found["Desired"], busy, status["JobModifyIndex"])

    def scale(self, tier: str, before: Standing, count: int, why: str, figures: Mapping[str, Any]) -> None:
        job_id, group = JOBS[tier]
        try:
            self._nomad.scale(job_id, group, count, before.token, f"scaler: {why}", dict(figures))
        except NomadError as error:
            raise NotDone(str(error)) from error
