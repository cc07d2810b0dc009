"""What processes have used of the machine, read from /proc: CPU seconds of whole process trees, resident memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGESIZE") / 1024


class ProcessGone(Exception):
    """A measured process is not there: it died, so the figures would lie."""


@dataclass(frozen=True)
class Meter:
    """CPU and memory of one process with all its descendants, by the pid of the first."""

    pid: int

    def cpu_s(self) -> float:
        """User and system time so far, that of descendants and of those that have ended included.

        :raises ProcessGone:
        """
        stats = _stats()
        if self.pid not in stats:
            raise ProcessGone(f"process {self.pid} has ended")
        return sum(stats[pid].ticks for pid in _tree(self.pid, stats)) * _TICK_S

    def rss_kb(self) -> float:
        """Resident memory of the first process alone.

        :raises ProcessGone:
        """
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_KB
        except OSError:
            raise ProcessGone(f"process {self.pid} has ended") from None


@dataclass(frozen=True)
class _Stat:
    parent: int
    ticks: int


def _stats() -> dict[int, _Stat]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It ended meanwhile; its parent has its time.
        # utime, stime, and those of children that were waited for
        found[int(entry.name)] = _Stat(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _tree(root: int, stats: dict[int, _Stat]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    tree, position = [root], 0
    while position < len(tree):
        tree += children.get(tree[position], [])
        position += 1
    return tree


def busy_s() -> float:
    """CPU seconds that the whole machine has spent on anything, stolen time left out."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
    user, nice, system, _idle, _wait, irq, soft = fields[:7]
    return (user + nice + system + irq + soft) * _TICK_S


def describe_machine() -> dict[str, object]:
    """Enough to judge figures by."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    total_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "memory_gb": round(total_kb / 1e6, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
