"""What this process takes of its machine, for both tiers' metrics."""

import os
import resource
import time
from collections.abc import Collection, Iterator
from pathlib import Path

GAUGES = {
    "process.memory_bytes": "resident memory; it grows with connections (about 33 KB each) and must come down again",
    "process.cpu_share": "of one core, over the last seconds; near 1 this process is full",
    "process.open_files": "open files, sockets above all",
    "process.open_files_share": "of what the process may open; near 1 connections are about to be refused",
    "process.disk_used_share": "of the fullest file system among this process's own and those of metrics.watch_folders",
}
_LOOK_EVERY_S = 10.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessLevels:
    """``read()`` gives each gauge's value, some of them up to ten seconds old. ``folders``: whose disks are looked at
    beside that of the working folder."""

    def __init__(self, folders: Collection[str] = ()) -> None:
        self._folders = (".", *folders)
        self._look_at = 0.0
        self._seen: dict[str, float] = {}
        self._cpu_s, self._read_at = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        cpu_s, now = time.process_time(), time.monotonic()
        if now > self._read_at:
            self._seen["process.cpu_share"] = (cpu_s - self._cpu_s) / (now - self._read_at)
        self._cpu_s, self._read_at = cpu_s, now
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._seen.update(_looked_up(self._folders))
        return self._seen


def _looked_up(folders: Collection[str]) -> Iterator[tuple[str, float]]:
    yield "process.memory_bytes", int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    files = _open_files()
    yield "process.open_files", files
    may_open, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "process.open_files_share", files / may_open if may_open != resource.RLIM_INFINITY else 0.0
    yield "process.disk_used_share", max(map(_disk_used_share, folders))


def _disk_used_share(folder: str) -> float:
    """0 where there is no such folder, or nothing that could be full."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0.0
    return 1 - disk.f_bavail / disk.f_blocks if disk.f_blocks else 0.0


def _open_files() -> int:
    """Linux 6.2 and newer give the number at once; listing thirty thousand takes ten milliseconds."""
    opened = Path("/proc/self/fd")
    return opened.stat().st_size or sum(1 for _ in opened.iterdir())
