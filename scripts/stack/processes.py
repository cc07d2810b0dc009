"""Knows a process again, also after its parent has died and its pid may belong to somebody else.

Only the standard library, since the launcher of every process imports it. A process is ours when its pid and start
time are those that its launcher noted, or when its environment carries the mark of the run folder. Servers that rewrite
their own title (PostgreSQL, Redis) lose the mark; their noted start time stays.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

MARK = "STACK_RUN_DIR"
SHARED_DAEMONS = {"epmd"}  # Erlang's port mapper serves every broker of the machine and is left alone.


def start_time(pid: int) -> str | None:
    """When a living process started, as a text that no other process of this or an earlier boot has; else None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"


def note(pid_file: Path, noted_file: Path) -> None:
    """Write the calling process's pid, and beside it what proves later that the pid is still this process."""
    _replace(noted_file, json.dumps({"pid": os.getpid(), "started": start_time(os.getpid())}))
    _replace(pid_file, f"{os.getpid()}\n")


def noted(noted_file: Path) -> int | None:
    """The pid in a note, if that very process is still alive."""
    try:
        known = json.loads(noted_file.read_text())
    except (OSError, ValueError):
        return None
    return int(known["pid"]) if known["started"] and start_time(known["pid"]) == known["started"] else None


def last_group(noted_file: Path) -> int | None:
    """The process group of the process that was noted last, alive or not."""
    try:
        return int(json.loads(noted_file.read_text())["pid"])
    except (OSError, ValueError):
        return None


def marked(run_dir: str) -> set[int]:
    """Every living process that was started by the stack in ``run_dir``, as far as the environment tells."""
    mark = f"{MARK}={run_dir}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            carries_mark = mark in (entry / "environ").read_bytes().split(b"\0")
            if carries_mark and (entry / "comm").read_text().strip() not in SHARED_DAEMONS:
                found.add(int(entry.name))
        except OSError:
            continue  # It ended meanwhile, or belongs to somebody else.
    return {pid for pid in found if start_time(pid)}


def orphans_of(noted_file: Path, run_dir: str) -> set[int]:
    """What is left of a dead process's group: children that outlived the process that was noted."""
    group = last_group(noted_file)
    if group is None or noted(noted_file):
        return set()
    return {pid for pid in marked(run_dir) if _group(pid) == group}


def end(pids: Iterable[int], sig: signal.Signals, patience_s: float) -> None:
    """Ask processes to stop, and kill those that are still there after ``patience_s`` seconds."""
    alive = {pid: start_time(pid) for pid in pids}
    _send(alive, sig)
    deadline = time.monotonic() + patience_s
    while alive and time.monotonic() < deadline:
        alive = {pid: begun for pid, begun in alive.items() if begun and start_time(pid) == begun}
        time.sleep(0.02)
    _send(alive, signal.SIGKILL)


def _send(alive: dict[int, str | None], sig: signal.Signals) -> None:
    for pid, begun in alive.items():
        if begun and start_time(pid) == begun:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(text)
    temporary.replace(file)
