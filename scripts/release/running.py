"""Runs one stage: its output goes to the terminal and to a file, and it has an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from scripts.release.stages import UNASKED, Command, Stage
from scripts.stack.run_folder import ROOT

# After a SIGTERM: a test stack is taken down, a deployment is taken back.
_ENDS_WITHIN_S = 300.0
_LOOK_EVERY_S = 0.1
_TIMED_OUT, _INTERRUPTED = -1000, -1001


@dataclass(frozen=True)
class Result:
    """``outcome``: passed, failed, unasked (let through although a service could not be asked) or skipped."""

    stage: str
    outcome: str
    took_s: float = 0.0
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_stage(stage: Stage, log: Path, interrupted: threading.Event, unasked_is_fine: bool = False) -> Result:
    """Run its commands until one fails or somebody interrupts."""
    began = time.monotonic()
    with log.open("w") as out:
        for command in stage.commands:
            code = _run(command, began + stage.limit_s, interrupted, out)
            if code:
                break
    took_s = round(time.monotonic() - began, 1)
    if code == 0:
        return Result(stage.name, "passed", took_s)
    if stage.asks and code == UNASKED:
        outcome = "unasked" if unasked_is_fine else "failed"
        return Result(stage.name, outcome, took_s, f"{stage.asks} could not be asked")
    why = {_TIMED_OUT: f"not done within {stage.limit_s:g} s", _INTERRUPTED: "interrupted"}
    return Result(stage.name, "failed", took_s, why.get(code, f"{command[0]} ended with {code}"))


def _run(command: Command, ends_at: float, interrupted: threading.Event, out: IO[str]) -> int:
    """The exit status, or one of our own for what had to be ended."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", process_group=0,
    )  # fmt: skip
    assert process.stdout is not None
    # A daemon: what a command leaves running may hold the pipe open.
    copying = threading.Thread(target=_copy, args=(process.stdout, out), name="output", daemon=True)
    copying.start()
    code = None
    while code is None:
        try:
            code = process.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if interrupted.is_set() or time.monotonic() > ends_at:
                _end(process)
                code = _INTERRUPTED if interrupted.is_set() else _TIMED_OUT
    copying.join(5)
    return code


def _copy(lines: IO[str], out: IO[str]) -> None:
    with lines:
        for line in lines:
            for file in (sys.stdout, out):
                file.write(line)
                file.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """All processes of the command, which may put things in order first."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def noticing_interrupts() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM, for whoever runs a stage to end it in order."""
    interrupted = threading.Event()
    before = {number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
