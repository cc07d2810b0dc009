"""The record of rounds: JSON lines in a file that is turned over, so that all its parts together stay bounded."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = 10


class RecordTaken(Exception):
    """Another probe writes there."""


class Record:
    """Appends lines to ``path``; older ones are in ``path.1`` to ``path.9``, the oldest go.

    :raises OSError: the file can't be opened
    :raises RecordTaken: for each probe a record of its own
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._part_bytes = most_bytes // PARTS
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(path.name + ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RecordTaken(f"another probe writes to {path}; give each a probe.name of its own") from None
        self._file = path.open("ab", buffering=0)
        if self._file.tell():
            self._file.write(b"\n")  # the last line may have been cut off

    def add(self, line: dict[str, Any]) -> None:
        """:raises OSError: it is not in the record"""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._file.tell() + len(data) > self._part_bytes:
            self._turn_over()
        self._file.write(data)

    def close(self) -> None:
        self._file.close()
        self._lock.close()

    def _turn_over(self) -> None:
        for number in range(PARTS - 1, 0, -1):
            part = _part(self._path, number - 1)
            if part.exists():
                part.replace(_part(self._path, number))
        self._file.close()
        self._file = self._path.open("ab", buffering=0)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of all parts, the oldest first; what is no line of ours (cut off by a full disk) is passed over.

    :raises OSError: there is no record
    """
    for part in [part for number in range(PARTS - 1, 0, -1) if (part := _part(path, number)).exists()] + [path]:
        with part.open(errors="replace") as lines:
            for text in lines:
                try:
                    line = json.loads(text)
                    if isinstance(line, dict) and {"at", "every_s", "outcome", "took_ms"} <= line.keys():
                        yield line
                except ValueError:
                    continue


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
