"""The service as its callers see it: each node's health, the versions, and the balancer."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from scripts.checkup.findings import Finding, Here, Status, guarded, judged, numbers, version

LEAST_BALANCER = (2, 4)
_TIMEOUT_S = 5
_LOOK = "its log, and what this report says of the servers"


def check(here: Here) -> Iterator[Finding]:
    if not here.urls:
        advice = "name the service with --url, or node.public_url"
        yield Finding("service", Status.UNKNOWN, "nobody has said where it is", advice)
        return
    versions: set[str] = set()
    for url in here.urls:
        yield from guarded(f"node {url}", _node(url, versions), here)
    if len(versions) > 1:
        advice = "only for as long as a deployment takes"
        yield Finding("nodes' versions", Status.WARNING, ", ".join(sorted(versions)), advice)


def _node(url: str, versions: set[str]) -> Iterator[Finding]:
    name = f"node {url}"
    try:
        health = _asked(f"{url}/api/health")
    except OSError as error:
        yield Finding(name, Status.FAILED, f"does not answer: {error}", "start it; its log has the reason")
        return
    versions.add(str(health["version"]))
    wrong = {part: state for part, state in health["dependencies"].items() if state["status"] != "connected"}
    found = "; ".join(f"{part}: {state.get('error', state['status'])}" for part, state in wrong.items())
    status = Status.FAILED if health["status"] == "unhealthy" else Status.WARNING
    yield judged(
        name, not wrong, f"{health['status']}, version {health['version']}" + f" ({found})" * bool(found), status, _LOOK
    )


def _asked(url: str) -> dict[str, Any]:
    """A health report, also one with status 503.

    :raises OSError: there is no answer
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # nosec B310: the operator's own address
            told: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        told = json.load(error)
    return told


def balancer(here: Here) -> Iterator[Finding]:
    """HAProxy, where it is on this machine."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if here.run_dir is None or program is None or not (here.run_dir / "pids" / "haproxy.pid").exists():
        return
    said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
    text = said.split()[2]
    yield version("HAProxy", numbers(text), text, LEAST_BALANCER)
