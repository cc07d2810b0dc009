"""One supervised process and its children: killed, frozen, held down, brought back."""

from __future__ import annotations

import os
import signal
import time
import xmlrpc.client  # our own supervisor answers, on a socket of ours  # nosec B411
from collections.abc import Callable
from pathlib import Path

from scripts.stack import processes
from scripts.stack.program import noted_file
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import STOPPED_STATES, Supervisor, wait_until

BACK_WITHIN_S = 60.0


class Victim:
    """A program of a run folder. ``answers`` tells whether it does its work (not merely runs)."""

    def __init__(self, folder: RunFolder, name: str, answers: Callable[[], bool] = lambda: True) -> None:
        self.name = name
        self.answers = answers
        self._noted_file = noted_file(folder, name)
        self._supervisor = Supervisor(folder)

    def pid(self) -> int | None:
        """Of the process that the launcher noted, None while it is dead."""
        return processes.noted(self._noted_file)

    def tree(self) -> list[int]:
        """The process and everything below it, parents first; empty while it is dead."""
        pid = self.pid()
        return [pid, *_descendants(pid)] if pid else []

    def kill(self) -> None:
        """kill -9 of the whole tree. The supervisor starts it again."""
        for pid in self.tree():
            _send(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP of the whole tree: connections stay open and nothing answers."""
        root = self.pid()
        if root:
            _send(root, signal.SIGSTOP)  # First, so that it makes no child that is missed.
            for pid in _descendants(root):
                _send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, children first; harmless when nothing is frozen."""
        for pid in reversed(self.tree()):
            _send(pid, signal.SIGCONT)

    def kill_and_hold_down(self) -> None:
        """kill -9, and no restart until ``bring_back``."""
        # Frozen, it can't act on the supervisor's polite signal: it dies by the kill, and the supervisor lets it lie.
        self.freeze()
        self._supervisor.begin_to_stop(self.name)
        self.kill()
        wait_until(lambda: self.state() in STOPPED_STATES, 10, f"{self.name} did not die")

    def restart(self) -> None:
        """An orderly stop and start, as an operator does it."""
        self._supervisor.stop_programs([self.name])
        self.bring_back()

    def bring_back(self) -> None:
        """Start it unless it runs, and return when it answers.

        :raises StepFailed: it does not within a minute
        """
        self.begin_to_return()
        wait_until(lambda: self.pid() is not None and self.answers(), BACK_WITHIN_S, f"{self.name} did not come back")

    def begin_to_return(self) -> None:
        """Start it unless it runs, without waiting."""
        self.thaw()
        if self.state() in STOPPED_STATES:
            try:
                self._supervisor.start_program(self.name)
            except xmlrpc.client.Fault:
                pass  # It was dead, not held down, and the supervisor has been quicker.

    def state(self) -> str:
        """In the supervisor's words."""
        return self._supervisor.states().get(self.name, "STOPPED")


def _descendants(root: int) -> list[int]:
    """Children, then their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, at = [root], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found[1:]


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # It ended meanwhile.


def _send(pid: int, sig: signal.Signals) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def kill_all(pids: list[int], gone_within_s: float = 10) -> None:
    """kill -9 of all of them, in one breath, and wait until none is left."""
    alive = {pid: begun for pid in pids if (begun := processes.start_time(pid))}
    for pid in alive:
        _send(pid, signal.SIGKILL)
    deadline = time.monotonic() + gone_within_s
    while any(processes.start_time(pid) == begun for pid, begun in alive.items()) and time.monotonic() < deadline:
        time.sleep(0.02)
