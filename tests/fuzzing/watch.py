"""Watches what is fuzzed: its processes live on, their logs hold no exception, their memory doesn't grow."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A line of the log of its own level, as text or as JSON, and what Python prints by itself.
_BAD_LINE = re.compile(r'^\S+ \S+ (ERROR|CRITICAL) |"level": ?"(ERROR|CRITICAL)"|^Traceback |never retrieved')
_SAMPLE_EVERY_S = 0.5
_WARM_SHARE = 0.4  # of the run: caches have filled by then
_GROWTH_SHARE, _GROWTH_KB = 0.15, 20_000


@dataclass
class Watched:
    """One process: its log from where it stood at the start, and its and its children's memory in kB over time."""

    name: str
    pid: Callable[[], int | None]
    log: Path
    first_pid: int | None = None
    log_from: int = 0
    memory_kb: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self.first_pid = self.pid()
        self.log_from = self.log.stat().st_size if self.log.exists() else 0

    def sample(self) -> None:
        pid = self.pid()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.memory_kb.append(sum(_resident_kb(each) for each in (pid, *children)))
        except OSError:
            return  # told by findings(): the process is not the one that it was

    def findings(self) -> list[str]:
        found = []
        if self.pid() != self.first_pid or self.pid() is None:
            found.append(f"{self.name}: restarted or dead: process {self.first_pid} is now {self.pid()}")
        with self.log.open(errors="replace") as log:
            log.seek(self.log_from)
            bad = [line.strip()[:600] for line in log if _BAD_LINE.search(line)]
        found += [f"{self.name}: {len(bad)} bad lines in its log, the first: {line}" for line in bad[:1]]
        before, after = self.grown_kb()
        if after > before * (1 + _GROWTH_SHARE) + _GROWTH_KB:
            found.append(f"{self.name}: memory grew from {before // 1024} to {after // 1024} MB")
        return found

    def grown_kb(self) -> tuple[int, int]:
        """The most it held until it was warm, and at the end."""
        warm = max(1, int(len(self.memory_kb) * _WARM_SHARE))
        return max(self.memory_kb[:warm], default=0), max(self.memory_kb[-max(1, warm // 4) :], default=0)


def _resident_kb(pid: object) -> int:
    resident = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(resident[1]) if resident else 0  # a process that has ended and was not waited for


class Watch:
    """Samples from ``start`` to ``stop``; ``dead_letters()`` counts them."""

    def __init__(self, watched: Sequence[Watched], dead_letters: Callable[[], int]) -> None:
        self._watched = watched
        self._dead_letters = dead_letters
        self._dead_before = 0
        self._stopped = threading.Event()
        self._sampling = threading.Thread(target=self._sample, name="fuzz-watch")
        self._began = 0.0

    def start(self) -> None:
        for each in self._watched:
            each.begin()
        self._dead_before = self._dead_letters()
        self._began = time.monotonic()
        self._sampling.start()

    def stop(self) -> list[str]:
        """What was found; empty is good."""
        self._stopped.set()
        self._sampling.join()
        found = [finding for each in self._watched for finding in each.findings()]
        more = self._dead_letters() - self._dead_before
        return found + ([f"{more} dead letters"] if more else [])

    def report(self) -> list[str]:
        """A line per process."""
        lines = [f"watched for {time.monotonic() - self._began:.0f} s"]
        for each in self._watched:
            before, after = each.grown_kb()
            lines.append(
                f"{each.name}: process {each.first_pid}, {before // 1024} MB when warm, {after // 1024} MB last"
            )
        return lines

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_EVERY_S):
            for each in self._watched:
                each.sample()
