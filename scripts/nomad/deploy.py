"""scripts/deploy: brings a version into an environment by Nomad, within a limit of its own, or takes it back.

Before it begins, and when it has ended, the service itself puts it on record (scripts/audit --event deployment). The
last line is the same record as JSON. Exit status: 0 in service, 1 not, 2 wrong usage, 3 in service, but its end is not
on record.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from functools import partial
from typing import Any

from scripts.nomad.__main__ import check
from scripts.nomad.api import Nomad
from scripts.nomad.deployment import Deployment, DeploymentFailed
from scripts.nomad.jobs import ENVIRONMENTS, FOLDER
from scripts.stack.progress import say
from scripts.synthetic_poll import NotReached, VotesWrong, lives

RECORD_PATH = "/api/config/deployments"
_RECORDED_WITHIN_S = 30.0
_POLL_WITHIN_S = (20.0, 60.0)  # at least, also when the steps before it have taken all the time; and at most


def main() -> int:
    options = parse(sys.argv[1:])
    began = datetime.now(UTC)
    record: dict[str, Any] = {
        "environment": options.environment,
        "image": options.image,
        "by": os.environ.get("DEPLOYED_BY") or getpass.getuser(),
        "run": os.environ.get("RUN_URL", ""),
    }
    deployment = Deployment(Nomad(), options.environment, options.image, partial(votes_arrive, options.service))
    problem, unrecorded = "", options.unrecorded
    try:
        if problems := list(check(FOLDER)):
            raise DeploymentFailed("; ".join(problems))
        if not unrecorded:
            put_on_record(options.service, record | {"outcome": "begun"})
    except DeploymentFailed as error:
        problem, unrecorded = str(error), "not begun"
    else:
        problem = run(deployment)
        try:
            put_on_record(options.service, record | ended(problem))
        except DeploymentFailed as error:
            unrecorded = unrecorded or str(error)
    record |= ended(problem) | {
        "event": "deployment",
        "began": began.isoformat(timespec="seconds"),
        "took_s": round((datetime.now(UTC) - began).total_seconds(), 1),
        "taken_back": deployment.taken_back,
        "unrecorded": unrecorded,
    }
    say(json.dumps(record))
    return 1 if problem else 3 if unrecorded and not options.unrecorded else 0


def run(deployment: Deployment) -> str:
    """What went wrong; empty when the version is in service."""
    end_on_signals(deployment)
    try:
        deployment.run()
    except DeploymentFailed as error:
        return str(error)
    return ""


def ended(problem: str) -> dict[str, str]:
    return {"outcome": "failed" if problem else "ok", "problem": problem[:2000]}


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/deploy", description=__doc__)
    parser.add_argument("environment", choices=ENVIRONMENTS)
    parser.add_argument("image", help="with its version or digest")
    parser.add_argument(
        "--service",
        metavar="URL",
        required=True,
        help="where browsers reach it: votes of our own must arrive there, and it keeps the record, with the admin "
        "token in VOTEMILL_SECURITY__ADMIN_TOKEN",
    )
    parser.add_argument(
        "--unrecorded",
        metavar="REASON",
        default="",
        help="begin although the service can't take the record, as the first time",
    )
    return parser.parse_args(words)


def end_on_signals(deployment: Deployment) -> None:
    """Let whoever ends this process have everything taken back first; a second signal doesn't disturb that."""

    def end(number: int, _frame: object) -> None:
        if not deployment.ending:
            deployment.ending = True
            raise DeploymentFailed(f"ended by {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def votes_arrive(url: str, left_s: float) -> None:
    """Live through a poll of our own, as browsers do.

    :raises DeploymentFailed: with what is wrong
    """
    try:
        at_least_s, at_most_s = _POLL_WITHIN_S
        asyncio.run(lives(url, within_s=min(max(left_s, at_least_s), at_most_s)))
    except (NotReached, VotesWrong) as error:
        raise DeploymentFailed(f"votes of our own didn't arrive as they should: {error}") from error
    say("✓ votes of our own were counted and shown")


def put_on_record(url: str, record: dict[str, Any]) -> None:
    """Have the service keep it in its audit log, in which only the holder of the admin token can write so.

    :raises DeploymentFailed: it didn't within half a minute
    """
    request = urllib.request.Request(
        url.rstrip("/") + RECORD_PATH,
        data=json.dumps(record).encode(),
        headers={
            "Authorization": f"Bearer {os.environ.get('VOTEMILL_SECURITY__ADMIN_TOKEN', '')}",
            "Content-Type": "application/json",
        },
    )
    gives_up_at = time.monotonic() + _RECORDED_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):  # nosec B310: the operator's own address
                return
        except OSError as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            if refused or time.monotonic() > gives_up_at:
                raise DeploymentFailed(f"{url} didn't put the deployment on record: {error}") from error
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
