"""scripts/deploy: brings a version into an environment, within a limit of its own, or takes it back.

First the migrations, then the workers, then the nodes; each must be healthy before the next begins, and at last votes
of our own must arrive. When one fails or the limit is reached, its deployment is ended, Nomad reverts it, and what was
deployed before it is reverted, too. The schema stays: migrations expand first, so the version before runs on it. The
last line is a record of the deployment.
"""

from __future__ import annotations

import argparse
import getpass
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from scripts.nomad.__main__ import check
from scripts.nomad.api import Nomad, NomadError
from scripts.nomad.jobs import ENVIRONMENTS, FOLDER, Job, parse, read_job
from scripts.nomad.rules import DEPLOYMENT_LIMIT_S

JOBS = ("migrate", "worker", "node")
_ENDED = {"successful", "failed", "cancelled"}
_VOTES_WITHIN_S = 90
T = TypeVar("T")


class DeploymentFailed(Exception):
    """The new version is not in service; the message says why."""


@dataclass
class Deployment:
    """One run. ``limit_s`` holds for all steps together; ``pause_s`` lies between two looks at Nomad."""

    nomad: Nomad
    environment: str
    image: str
    verify: Callable[[], bool] = lambda: True  # whether the service works, once everything is deployed
    limit_s: float = DEPLOYMENT_LIMIT_S
    pause_s: float = 1.0
    began: float = field(default_factory=time.monotonic)
    before: dict[str, int] = field(default_factory=dict)  # job id -> the version that was in service

    def run(self) -> None:
        """:raises DeploymentFailed: after everything was taken back"""
        try:
            for name in JOBS:
                job = read_job(FOLDER / f"{name}.nomad.hcl")
                registered_at = self._register(job)
                if name == "migrate":
                    self._migrate(job.name)
                else:
                    self._settle(job.name, registered_at)
                say(f"✓ {job.name}")
            if not self.verify():
                raise DeploymentFailed("votes of our own didn't arrive as they should")
        except (NomadError, DeploymentFailed) as error:
            self._take_back()
            raise DeploymentFailed(str(error)) from error

    def _register(self, job: Job) -> int:
        values = parse(FOLDER / "variables" / f"{self.environment}.hcl") | {"image": self.image}
        # Nomad refuses variables that a job doesn't declare. JSON's texts, numbers and lists are HCL's, too.
        variables = "".join(f"{name} = {json.dumps(values[name])}\n" for name in sorted(job.variables))
        wanted = self.nomad.parse(job.file.read_text(), variables)
        present = self.nomad.job(job.name)
        if present is not None and job.name != "votemill-migrate":
            self.before[job.name] = present["Version"]
        return self.nomad.register(wanted, present["JobModifyIndex"] if present else 0)

    def _migrate(self, job_id: str) -> None:
        run = self.nomad.dispatch(job_id, {"direction": "up"})

        def ended() -> str | None:
            states = [allocation["ClientStatus"] for allocation in self.nomad.allocations(run)]
            return next((state for state in states if state in ("complete", "failed", "lost")), None)

        if (state := self._wait(ended, "the migrations")) != "complete":
            raise DeploymentFailed(f"the migrations ended as {state}: nomad job status {run}")

    def _settle(self, job_id: str, registered_at: int) -> None:
        deployment = self._wait(lambda: self.nomad.deployment_of(job_id, registered_at), f"a deployment of {job_id}")

        def ended() -> dict[str, Any] | None:
            now = self.nomad.deployment_of(job_id, registered_at)
            return now if now is not None and now["Status"] in _ENDED else None

        try:
            deployment = self._wait(ended, f"{job_id} to become healthy")
        except DeploymentFailed:
            # A canary that hangs would hang for ever.
            self.nomad.fail(deployment["ID"])
            self._reverts_itself(job_id)
            raise
        if deployment["Status"] != "successful":
            self._reverts_itself(job_id)
            raise DeploymentFailed(f"{job_id}: {deployment['Status']}: {deployment['StatusDescription']}")

    def _reverts_itself(self, job_id: str) -> None:
        """By auto_revert; doing it once more would begin one more deployment."""
        self.before.pop(job_id, None)

    def _take_back(self) -> None:
        for job_id, version in self.before.items():
            try:
                present = self.nomad.job(job_id)
                if present is not None and present["Version"] != version:
                    self.nomad.revert(job_id, version)
                    say(f"✗ {job_id} goes back to version {version}")
            except NomadError as error:
                say(f"✗ {job_id} could NOT be taken back to version {version}: {error}")

    def _wait(self, look: Callable[[], T | None], what: str) -> T:
        while True:
            if (found := look()) is not None:
                return found
            if time.monotonic() - self.began > self.limit_s:
                raise DeploymentFailed(f"{what}: not within {self.limit_s:g} s")
            time.sleep(self.pause_s)


def votes_arrive(url: str) -> bool:
    """Whether every vote in a poll of our own is counted: created, joined, voted in and closed as browsers do it."""
    command = ["-m", "scripts.loadtest", "--url", url, "--voters", "10", "--rate", "10", "--seconds", "5", "--close"]
    return subprocess.run([sys.executable, *command], timeout=_VOTES_WITHIN_S, check=False).returncode == 0


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """0 when the version is in service, 1 when it isn't."""
    parser = argparse.ArgumentParser(prog="scripts/deploy", description=__doc__)
    parser.add_argument("environment", choices=ENVIRONMENTS)
    parser.add_argument("image", help="with its version or digest")
    parser.add_argument("--verify", metavar="URL", help="where browsers reach it: votes of our own must arrive there")
    options = parser.parse_args()
    url = options.verify
    began, problem = datetime.now(UTC), ""
    if found := list(check(FOLDER)):
        problem = "; ".join(found)
    else:
        try:
            verify = partial(votes_arrive, url) if url else Deployment.verify
            Deployment(Nomad(), options.environment, options.image, verify).run()
        except DeploymentFailed as error:
            problem = str(error)
    record = {
        "event": "deployment",
        "environment": options.environment,
        "image": options.image,
        "by": getpass.getuser(),
        "began": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds(), 1),
        "outcome": "failed" if problem else "ok",
        "problem": problem,
    }
    say(json.dumps(record))
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
