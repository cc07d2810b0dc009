"""A node to fuzz, watched all the while. ``scripts/fuzz`` makes it long; in the suite it is a matter of seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.wire import names
from scripts.dead_letters import broker_channel
from tests.fuzzing.watch import Watch, Watched
from tests.security.conftest import GuardedNode, guarded_node
from tests.socket_tier.conftest import kind, new_browser, node_process, rest, transport

__all__ = ["kind", "new_browser", "node_process", "rest", "transport"]

LONG = "FUZZ_SECONDS" in os.environ
SECONDS = float(os.environ.get("FUZZ_SECONDS", "6"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
# Of the whole time. Decoders are quick, so little of it goes far.
SHARES = {"events": 0.3, "packets": 0.25, "calls": 0.2, "documents": 0.15, "decoders": 0.1}

# That the machine is busy is no finding: this node neither sheds nor gives up early.
_PATIENT = {
    "SHED__NEWCOMERS_LAG_S": "600",
    "SHED__VOTES_LAG_S": "600",
    "BROKER__PUBLISH_TIMEOUT_S": "12",
    "BROKER__REPLY_TIMEOUT_S": "12",
    "REDIS__TIMEOUT_S": "6",
}

_report: list[str] = []


def seconds_for(what: str) -> float:
    return SECONDS * SHARES[what]


def tell(line: str) -> None:
    """A line for the report at the end."""
    _report.append(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _report:
        terminalreporter.section(f"fuzzing for {SECONDS:g} s, seed {SEED}")
        for line in _report:
            terminalreporter.write_line(line)


def _dead_letters() -> int:
    with broker_channel() as channel:
        queues = [names.dead_letter_queue(queue) for queue in names.COMMAND_QUEUES]
        return sum(channel.queue_declare(queue, passive=True).method.message_count for queue in queues)


@pytest.fixture(scope="session")
def node(run_dir: Path) -> Iterator[GuardedNode]:
    """A node without limits, so that inputs get past the first few; its end is a failure, and so is what is in its log.

    The long run has the stack for itself, and watches the workers and the dead letters, too.
    """
    with guarded_node(run_dir, "fuzzed", LIMITS__UNLIMITED="true", **_PATIENT) as node:
        watched = [Watched("the node", lambda: node.pid, node.log)]
        if LONG:
            for file in sorted((run_dir / "pids").glob("*worker*.pid")):
                log = run_dir / "log" / f"{file.stem}.log"
                watched.append(Watched(file.stem, lambda file=file: int(file.read_text()), log))  # type: ignore[misc]
        watch = Watch(watched, _dead_letters if LONG else lambda: 0)
        watch.start()
        yield node
        found = watch.stop()
        for line in (*watch.report(), *(f"✗ {finding}" for finding in found)):
            tell(line)
        assert not found, "\n".join(found)
