"""Wall clocks of single processes that are wrong, or are set while they run. Monotonic clocks go on as they are."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.stack.program import launch_file
from scripts.stack.run_folder import ROOT, RunFolder, write_private

PACKAGE = "faketime"
_SHIM = Path(__file__).parent / "clock_shim"
_LIBRARY = "*/faketime/libfaketimeMT.so.1"


class FakeClock:
    """What a process sees as its wall clock, as far ahead of this machine's as ``set`` said last."""

    def __init__(self, file: Path, ahead_s: float = 0) -> None:
        self._file = file
        self.set(ahead_s)

    def set(self, ahead_s: float) -> None:
        """At once, in processes that run."""
        # Never half written: libfaketime ends a process that it can't tell the time.
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+.3f}\n")
        new.replace(self._file)

    def environment(self, pythonpath: str = str(ROOT)) -> dict[str, str]:
        """For a Python process that is to see it."""
        return {
            "LD_PRELOAD": str(next(Path("/usr/lib").glob(_LIBRARY))),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": f"{_SHIM}:{pythonpath}",
        }


def give_clock(folder: RunFolder, name: str) -> FakeClock:
    """One for a program of a stack, from its next start on."""
    clock = FakeClock(folder.processes / f"{name}.clock")
    file = launch_file(folder, name)
    described = json.loads(file.read_text())
    described["env"] |= clock.environment()
    write_private(file, json.dumps(described, indent=2))
    return clock
