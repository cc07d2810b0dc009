"""Stops a stack in order, whether its supervisor lives or not: the balancer, the nodes, the workers, the servers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.stack import processes
from scripts.stack.program import STOP_ORDER, STOPS_WITHIN_S
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import UNREACHABLE, Supervisor


def stop_everything(folder: RunFolder) -> bool:
    """Stop what this run folder's stack runs, and only that; whether there was anything.

    Acked votes are safe at every point: nodes end after their last confirm, workers finish what they hold, and the
    broker, which keeps the rest on disk, ends after both.
    """
    with _not_interrupted():
        found = _stop_supervised(folder)
        found |= _stop_leftovers(folder)
    for stale in (folder.env_file, folder.process_env_file, folder.ready_mark, *folder.pids.glob("*.pid")):
        stale.unlink(missing_ok=True)
    return found


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave half of a stack running: stopping has deadlines of its own."""
    interrupts = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, signal.SIG_IGN) for each in interrupts}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop_supervised(folder: RunFolder) -> bool:
    supervisor = Supervisor(folder)
    if not supervisor.is_running():
        return False
    try:
        running = supervisor.states()
        groups = _groups(folder)
        for group in STOP_ORDER:
            supervisor.stop_programs(name for name in running if groups.get(name) == group)
        supervisor.shut_down()
    except UNREACHABLE:
        pass  # It died meanwhile: what it has left behind is found next.
    return True


def _stop_leftovers(folder: RunFolder) -> bool:
    """End what outlived a killed supervisor: first the supervisor's own kind, then group by group, then the rest."""
    launched = _descriptions(folder)
    alive = {name: pid for name in launched if (pid := processes.noted(Path(launched[name]["noted_file"])))}
    marked = processes.marked(str(folder.path))
    processes.end(_supervisors_among(marked), signal.SIGKILL, patience_s=0)
    for group in STOP_ORDER:
        by_signal: dict[str, list[int]] = {}
        for name in (name for name in alive if launched[name]["group"] == group):
            by_signal.setdefault(launched[name]["stop_signal"], []).append(alive[name])
        for name, pids in by_signal.items():
            processes.end(pids, signal.Signals[f"SIG{name}"], STOPS_WITHIN_S)
    processes.end(processes.marked(str(folder.path)), signal.SIGTERM, patience_s=5)
    return bool(alive or marked)


def _supervisors_among(pids: set[int]) -> list[int]:
    """Those that are supervisord: it must not start again what is being stopped."""
    found = []
    for pid in pids:
        try:
            if b"supervisor.supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def _descriptions(folder: RunFolder) -> dict[str, dict[str, str]]:
    return {file.stem: json.loads(file.read_text()) for file in folder.processes.glob("*.json")}


def _groups(folder: RunFolder) -> dict[str, str]:
    return {name: description["group"] for name, description in _descriptions(folder).items()}
