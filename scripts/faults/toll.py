"""What processes use: CPU over a span, and memory now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from scripts.faults.victim import Victim

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(victims: Iterable[Victim]) -> dict[str, float]:
    """CPU seconds used so far by each victim's tree."""
    return {victim.name: sum(map(_cpu_s, victim.tree())) for victim in victims}


def busy_share(victims: list[Victim], over_s: float) -> dict[str, float]:
    """The share of one core that each used over the next ``over_s`` seconds."""
    before, began = cpu_s(victims), time.monotonic()
    time.sleep(over_s)
    after, took_s = cpu_s(victims), time.monotonic() - began
    return {name: (after[name] - before[name]) / took_s for name in after}


def memory_mb(victims: Iterable[Victim]) -> dict[str, float]:
    """Resident memory of each victim's tree, megabytes."""
    return {victim.name: sum(map(_resident_mb, victim.tree())) for victim in victims}


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except OSError:
        return 0.0
