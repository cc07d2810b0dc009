"""One deployment: the migrations, then the workers, then the nodes, then votes of our own; or everything taken back.

Each must be healthy before the next begins. When one fails or the limit is reached, its deployment is ended, and all
jobs go back to the versions that were in service. The schema stays: migrations expand first, so the version before
runs on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scripts.nomad.api import Nomad, NomadError
from scripts.nomad.jobs import FOLDER, Job, parse, read_job
from scripts.nomad.rules import DEPLOYMENT_LIMIT_S
from scripts.stack.progress import say

JOBS = ("migrate", "worker", "node")
_ENDED = {"successful", "failed", "cancelled"}
_BACK_WITHIN_S = 240.0
T = TypeVar("T")


class DeploymentFailed(Exception):
    """The new version is not in service; the message says why."""


@dataclass
class Deployment:
    """One run. ``limit_s`` holds for all steps together; ``pause_s`` lies between two looks at Nomad.

    ``verify`` is given the seconds that are left, and raises DeploymentFailed unless the service works. ``taken_back``:
    whether everything is as it was before; None when nothing had to be. ``ending``: whether that has begun.
    """

    nomad: Nomad
    environment: str
    image: str
    verify: Callable[[float], None]
    limit_s: float = DEPLOYMENT_LIMIT_S
    back_within_s: float = _BACK_WITHIN_S
    pause_s: float = 1.0
    taken_back: bool | None = None
    ending: bool = False
    began: float = field(default_factory=time.monotonic)
    before: dict[str, int] = field(default_factory=dict)  # job id -> the version that was in service

    def run(self) -> None:
        """:raises DeploymentFailed: after everything was taken back, as far as that was possible"""
        try:
            for name in JOBS:
                job = read_job(FOLDER / f"{name}.nomad.hcl")
                registered_at = self._register(job)
                if name == "migrate":
                    self._migrate(job.name)
                elif registered_at is not None:
                    self._settle(job.name, registered_at)
                say(f"✓ {job.name}")
            self.verify(self.began + self.limit_s - time.monotonic())
        except (NomadError, DeploymentFailed) as error:
            self.ending = True
            say(f"✗ {error}")
            self.taken_back = self._take_back() if self.before else None
            raise DeploymentFailed(str(error)) from error

    def _register(self, job: Job) -> int | None:
        """The job's modify index; None when it is in service already, just as it should be."""
        values = parse(FOLDER / "variables" / f"{self.environment}.hcl") | {"image": self.image}
        # Nomad refuses variables that a job doesn't declare. JSON's texts, numbers and lists are HCL's, too.
        variables = "".join(f"{name} = {json.dumps(values[name])}\n" for name in sorted(job.variables))
        wanted = self.nomad.parse(job.file.read_text(), variables)
        present = self.nomad.job(job.name)
        if present is not None and job.name != "votemill-migrate":
            self.before[job.name] = present["Version"]
        index = present["JobModifyIndex"] if present else 0
        try:
            registered_at = self.nomad.register(wanted, index)
        except NomadError as error:
            if error.status:  # refused; without any answer it may have taken effect
                self.before.pop(job.name, None)
            raise
        # Nomad makes no deployment for what hasn't changed, and forgets earlier ones after an hour.
        unchanged = present is not None and registered_at == index and present.get("Stable")
        return None if unchanged else registered_at

    def _migrate(self, job_id: str) -> None:
        run = self.nomad.dispatch(job_id, {"direction": "up"})

        def ended() -> str | None:
            states = [allocation["ClientStatus"] for allocation in self.nomad.allocations(run)]
            return next((state for state in states if state in ("complete", "failed", "lost")), None)

        if (state := self._wait(ended, "the migrations")) != "complete":
            raise DeploymentFailed(f"the migrations ended as {state}: nomad job status {run}")

    def _settle(self, job_id: str, registered_at: int) -> None:
        # By its id: with auto_revert the job's latest deployment is soon another one.
        begun = self._wait(lambda: self.nomad.deployment_of(job_id, registered_at), f"a deployment of {job_id}")

        def ended() -> dict[str, Any] | None:
            now = self.nomad.deployment(begun["ID"])
            return now if now["Status"] in _ENDED else None

        try:
            result = self._wait(ended, f"{job_id} to become healthy")
        except DeploymentFailed:
            # A canary that hangs would hang for ever.
            self.nomad.fail(begun["ID"])
            raise
        if result["Status"] != "successful":
            raise DeploymentFailed(f"{job_id}: {result['Status']}: {result['StatusDescription']}")

    def _take_back(self) -> bool:
        """Whether all jobs are again what they were, and healthy. What Nomad has reverted by itself stays so."""
        gives_up_at = time.monotonic() + self.back_within_s
        asked: set[str] = set()
        left = dict.fromkeys(self.before, "")
        while left:
            for job_id in list(left):
                try:
                    left[job_id] = self._not_back(job_id, asked)
                except NomadError as error:
                    left[job_id] = str(error)
                if not left[job_id]:
                    say(f"✓ {job_id} is back at what version {self.before[job_id]} was")
                    del left[job_id]
            if time.monotonic() > gives_up_at:
                break
            time.sleep(self.pause_s)
        for job_id, why in left.items():
            say(f"✗ {job_id} is NOT back at what version {self.before[job_id]} was: {why}")
        return not left

    def _not_back(self, job_id: str, asked: set[str]) -> str:
        """Why a job isn't back; empty when it is. Asks Nomad for the version from before, once."""
        present = self.nomad.job(job_id)
        if present is None:
            return "somebody has removed it"
        if present["Version"] == self.before[job_id] or (job_id in asked and present["Stable"]):
            return ""
        if job_id not in asked:
            self.nomad.revert(job_id, self.before[job_id])
            asked.add(job_id)
        return "it is not healthy yet"

    def _wait(self, look: Callable[[], T | None], what: str) -> T:
        """What ``look`` finds. Nomad may be without a leader for a moment."""
        while True:
            why = ""
            try:
                if (found := look()) is not None:
                    return found
            except NomadError as error:
                if 400 <= error.status < 500:
                    raise
                why = f": {error}"
            if time.monotonic() - self.began > self.limit_s:
                raise DeploymentFailed(f"{what}: not within {self.limit_s:g} s{why}")
            time.sleep(self.pause_s)
