"""A deployment from end to end without a Nomad: scripts/deploy, on a server that answers like one.

A stack of this machine is the service: it takes the record, and the votes that a deployment ends with. A first version,
one whose canary fails and which must be taken back, and one that comes into service. Exit status: 0 all went so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from scripts.faults.stack import read_env
from scripts.stack import ports
from scripts.stack.progress import say
from scripts.stack.run_folder import ROOT
from tests.nomad.nomad_server import TOKEN, Cluster, serving

_FOLDER = ROOT / ".run-pipeline" / "rehearsal"
_UP_WITHIN_S, _DEPLOYED_WITHIN_S = 120, 120
FIRST, BAD, GOOD = (f"registry.example/votemill:{version}" for version in ("first", "bad", "good"))


def main() -> int:
    stack(f"--port={ports.any_free()}", "--detach", command="up")
    try:
        service = read_env(_FOLDER / "env")["BASE_URL"]
        secrets = read_env(_FOLDER / "process.env")
        cluster = Cluster(outcomes={})
        with serving(cluster) as nomad:
            variables = {
                "NOMAD_ADDR": nomad,
                "NOMAD_TOKEN": TOKEN,
                "VOTEMILL_SECURITY__ADMIN_TOKEN": secrets["VOTEMILL_SECURITY__ADMIN_TOKEN"],
            }
            first = deploy(FIRST, service, variables)
            cluster.outcomes["votemill-node"] = "failed"
            bad = deploy(BAD, service, variables)
            back = {job["Image"] for job in cluster.jobs.values() if job["Type"] == "service"}
            cluster.outcomes.clear()
            good = deploy(GOOD, service, variables)
            now = {job["Image"] for job in cluster.jobs.values() if job["Type"] == "service"}
    finally:
        stack("--quiet", command="down")
    as_wanted = (first, bad, good) == (("ok", None), ("failed", True), ("ok", None)) and (back, now) == (
        {FIRST},
        {GOOD},
    )
    say(f"{'✓' if as_wanted else '✗'} first {first}, bad {bad} and then {back} in service, good {good} and then {now}")
    return 0 if as_wanted else 1


def stack(*options: str, command: str) -> None:
    run = [ROOT / "scripts" / command, "--run-dir", _FOLDER, *options]
    subprocess.run(run, timeout=_UP_WITHIN_S, check=True)


def deploy(image: str, service: str, variables: dict[str, str]) -> tuple[str, bool | None]:
    """How it ended, and whether it was taken back."""
    command = [sys.executable, "-m", "scripts.nomad.deploy", "staging", image, "--service", service]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, timeout=_DEPLOYED_WITHIN_S,
        check=False,
    )  # fmt: skip
    say(done.stdout.strip())
    record = json.loads(done.stdout.splitlines()[-1])
    return record["outcome"], record["taken_back"]


if __name__ == "__main__":
    sys.exit(main())
