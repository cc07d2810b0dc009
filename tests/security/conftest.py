"""Nodes that limit, beside the stack's own (which don't): attackers and honest people come from addresses they name.

The nodes trust the test's own address as a proxy, so a browser is where its X-Forwarded-For says.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from models.runtime.hashed_addresses import hashed_address
from models.runtime.settings import load
from scripts.stack.ports import LOOPBACK, any_free
from tests.own_stack import process_number
from tests.socket_tier.conftest import kind, new_browser, node_process, rest
from tests.socket_tier.waiting import eventually
from tests.web.conftest import browser, chromium_path, playwright_driver

__all__ = ["kind", "new_browser", "node_process", "rest"]
__all__ += ["browser", "chromium_path", "playwright_driver"]

ROOT = Path(__file__).resolve().parents[2]
COALESCE_S = 2
_STARTS_WITHIN_S = 60.0
_addresses = itertools.count(1)

Audited = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class GuardedNode:
    """A node of its own process. ``log`` is its log file."""

    name: str
    url: str
    pid: int
    log: Path


@pytest.fixture(scope="session")
def guarded_nodes(run_dir: Path) -> Iterator[list[GuardedNode]]:
    """Two nodes with the limits of settings.toml."""
    with ExitStack() as running:
        yield [running.enter_context(guarded_node(run_dir, f"guarded-{number}")) for number in (1, 2)]


@pytest.fixture(scope="session")
def strict_node(run_dir: Path) -> Iterator[GuardedNode]:
    """A node that allows ten of everything for an address or a room, and hardly any more in a minute."""
    names = ["connections_per_address", "joins_per_address", "requests_per_address"]
    names += ["joins_per_room", "votes_per_room", "votes_per_address", "requests_per_room"]
    few = {f"LIMITS__{name.upper()}": '@json {"burst": 10, "per_s": 0.01}' for name in names}
    few["LIMITS__EVENTS_PER_SESSION"] = '@json {"burst": 30, "per_s": 0.01}'
    with guarded_node(run_dir, "strict-1", **few) as node:
        yield node


@contextmanager
def guarded_node(run_dir: Path, name: str, **settings: str) -> Iterator[GuardedNode]:
    """Run a node of the stack's, with some settings changed (``LIMITS__UNLIMITED="true"``)."""
    name = f"{name}-of-{process_number()}"
    port = any_free()
    log = run_dir / "log" / f"{name}.log"
    changed = {"LIMITS__UNLIMITED": "false", "NODE__NAME": name, "NODE__PORT": str(port), "LOG__JSON": "true"}
    # So that tests needn't wait long for what is written behind.
    changed |= {"AUDIT__COALESCE_S": str(COALESCE_S), "METRICS__FLUSH_S": "0.2"} | settings
    env = os.environ | {f"VOTEMILL_{key}": value for key, value in changed.items()} | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "socket_tier"], env=env, stdout=out, stderr=out)
        try:
            node = GuardedNode(name, f"http://{LOOPBACK}:{port}", process.pid, log)
            _wait_healthy(node, process)
            yield node
            assert process.poll() is None, f"{name} has ended; see {log}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_healthy(node: GuardedNode, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the node ended at its start; see {node.log}"
        if "node_listening" not in node.log.read_text():
            time.sleep(0.05)  # whoever answers on its port by now is somebody else
            continue
        try:
            with urllib.request.urlopen(f"{node.url}/api/health", timeout=5) as answer:
                if json.load(answer)["status"] == "healthy":
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
        time.sleep(0.05)
    raise AssertionError(f"the node did not become healthy; see {node.log}")


@pytest.fixture
def new_address() -> Callable[[], str]:
    """Addresses that nobody has come from before in this run."""
    return lambda: "10.{}.{}.{}".format(77 + process_number(), *divmod(next(_addresses), 250))


@pytest.fixture
def address(new_address: Callable[[], str]) -> str:
    return new_address()


@pytest.fixture
def audited(database_url: str) -> Audited:
    """``await audited("rate_limited", address=..., action=...)``: the newest such audit row, once there is one."""

    def read(event: str, fields: dict[str, str]) -> list[dict[str, Any]]:
        wanted = "".join(f" AND {name} = %({name})s" for name in fields)
        connection = psycopg2.connect(database_url)
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(
                    f"SELECT * FROM audit_log WHERE event = %(event)s{wanted} ORDER BY id", {"event": event, **fields}
                )
                return [dict(row) for row in cursor.fetchall()]
        finally:
            connection.close()

    key = load().audit.address_key

    async def find(event: str, **fields: str) -> dict[str, Any]:
        if "address" in fields:
            fields["address"] = hashed_address(key, fields["address"])
        rows = await eventually(lambda: read(event, fields), f"audited: {event} with {fields}")
        row: dict[str, Any] = rows[-1]
        return row

    return find
