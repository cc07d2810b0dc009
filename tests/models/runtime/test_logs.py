"""A line of the log is one event, whatever is in its fields; and whoever logs waits for nobody."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from models.runtime import correlation, logs
from models.runtime.logs import LogLevels, Singles
from models.runtime.settings import LogSettings, Settings, load
from scripts.tracing import parse

HOSTILE = 'a\r\n2026-01-01 ERROR forged {"event": "forged"}\x1b[2J\u2028\u202e'
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def settings(bare_environment: None) -> Settings:
    return load()


@pytest.fixture(autouse=True)
def own_root() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    logs.close()
    correlation.end()
    root.handlers[:], root.level = before


def written(capfd: pytest.CaptureFixture[str]) -> list[str]:
    assert logs.close()
    return capfd.readouterr().out.splitlines()


def configure(settings: Settings, **changes: object) -> None:
    wanted: LogSettings = msgspec.structs.replace(settings.log, **changes)
    logs.configure(wanted, service="votemill-node", instance="node-1", environment="test")


@pytest.mark.proves("FR-007", "FR-015")
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_what_somebody_sent_cant_end_a_line_or_move_the_cursor(
    settings: Settings, capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure(settings, json=as_json)
    logging.getLogger("x").warning("path_refused", extra={"path": HOSTILE, "code": "plain"})
    (line,) = written(capfd)
    assert line.isprintable()
    # And it is read again as it was written
    parsed = parse(line, "node-1")
    assert parsed is not None
    assert (parsed.event, parsed.fields["path"], parsed.fields["code"]) == ("path_refused", HOSTILE, "plain")


@pytest.mark.proves("FR-015", "FR-016")
def test_a_line_says_when_where_what_and_of_what_it_is_a_part(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(settings, json=True)
    correlation.begin(TRACEPARENT)
    logging.getLogger("socket_tier.x").info("poll_created", extra={"poll_id": 7})
    logging.getLogger("library").info("%s of %s", 1, "many")
    ours, theirs = map(json.loads, written(capfd))
    assert datetime.fromisoformat(ours.pop("timestamp")).utcoffset() is not None
    assert len(ours.pop("span_id")) == 16
    assert ours == {
        "level": "INFO",
        "logger": "socket_tier.x",
        "message": "poll_created",
        "event": "poll_created",
        "service.name": "votemill-node",
        "service.version": "0.1.0",
        "service.instance": "node-1",
        "env": "test",
        "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "poll_id": 7,
    }
    # The event's name is the same for all lines of a kind
    assert (theirs["event"], theirs["message"]) == ("%s of %s", "1 of many")


@pytest.mark.proves("FR-016")
@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff" + TRACEPARENT[2:],
        TRACEPARENT + "x",
        TRACEPARENT * 9,
    ],
)
def test_what_is_no_traceparent_begins_a_trace_of_its_own(given: object) -> None:
    assert correlation.begin(given) not in str(given)
    assert len(correlation.correlation_id.get()) == 32


def test_nothing_but_an_id_can_become_one() -> None:
    named = uuid4().hex
    assert correlation.begin(None, otherwise=named) == named
    assert re.fullmatch("[0-9a-f]{32}", correlation.begin(None, otherwise="'*/ DROP TABLE votes; /*"))


def test_a_database_error_is_logged_without_the_values_it_quotes(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    words = 'duplicate key\nDETAIL:  Key (nickname)=(Zebra Marked) exists.\nCONTEXT:  "Zebra Marked"'
    for as_json in (True, False):
        configure(settings, json=as_json)
        try:
            raise ValueError(words)
        except ValueError as error:
            logging.getLogger("x").exception("failed", extra={"error": repr(error)})
        lines = "\n".join(written(capfd))
        assert "duplicate key" in lines and "Zebra" not in lines


@pytest.mark.proves("FR-021")
def test_a_level_goes_back_to_what_it_was(settings: Settings) -> None:
    configure(settings)
    levels = LogLevels("INFO")
    levels.apply({"root": "ERROR", "pika": "DEBUG"})
    assert (logging.getLogger().level, logging.getLogger("pika").level) == (logging.ERROR, logging.DEBUG)
    levels.apply({})
    assert (logging.getLogger().level, logging.getLogger("pika").level) == (logging.INFO, logging.WARNING)


def test_whoever_makes_many_lines_has_the_rest_counted(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings, json=True)
    now = 10.0
    singles = Singles(2, lambda: now)
    assert [singles.allows() for _ in range(4)] == [True, True, False, False]
    now = 11.0
    assert singles.allows()
    (line,) = written(capfd)
    assert json.loads(line)["lines"] == 2


# What follows runs a process of its own, whose stdout is what the test gives it.

PROGRAM = """
import logging, sys, time, msgspec
from models.runtime import logs
from models.runtime.settings import load
settings = msgspec.structs.replace(load().log, json=True, fallback_folder=sys.argv[1], queue_lines=int(sys.argv[2]))
logs.configure(settings, service="s", instance="i/votes", environment="test")
began = time.monotonic()
for number in range(int(sys.argv[3])):
    logging.getLogger("x").info("line", extra={"number": number, "padding": "." * 200})
print(time.monotonic() - began, file=sys.stderr, flush=True)
if sys.argv[4] == "wait":
    sys.stdin.readline()
    logging.getLogger("x").info("line", extra={"number": -1})
began = time.monotonic()
print(logs.lost_lines()[0], logs.close(), time.monotonic() - began, file=sys.stderr, flush=True)
"""


def program(folder: Path, capacity: int, lines: int, how: str, stdout: object) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(capacity), str(lines), how]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True)  # type: ignore[call-overload]


def numbers(*texts: str) -> list[int]:
    """Of all whole lines: where stdout got stuck in the middle of one, it is in the file again."""
    lines = [parse(line, "") for text in texts for line in text.splitlines()]
    return [line.fields["number"] for line in lines if line is not None and line.event == "line"]


def _until(condition: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kept(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("i-votes.log*"), reverse=True)]


@pytest.mark.proves("FR-015", "FR-020")
def test_a_process_that_ends_has_written_every_line(tmp_path: Path) -> None:
    process = program(tmp_path, 100_000, 5_000, "end", subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert numbers(out) == list(range(5_000))
    assert kept(tmp_path) == []


@pytest.mark.proves("FR-020")
def test_while_a_pipe_takes_nothing_nobody_waits_and_a_file_takes_over(tmp_path: Path) -> None:
    # Given a pipe that nobody reads
    reader, writer = os.pipe()
    with program(tmp_path, 100_000, 2_000, "wait", writer) as process:
        assert process.stderr is not None and process.stdin is not None
        # Then logging costs no time that a write would take
        assert float(process.stderr.readline()) < 10
        _until(lambda: numbers(*kept(tmp_path))[-1:] == [1_999])
        # When somebody reads again, and the next line comes
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            read = pipe.read(1 << 20)
            process.stdin.write("go on\n")
            process.stdin.flush()
            text = (read + pipe.readall()).decode()
    # Then lines go there again, and not one is missing
    assert numbers(text)[-1] == -1 and '"stdout_back"' in text
    assert sorted(numbers(text, *kept(tmp_path))) == [-1, *range(2_000)]


@pytest.mark.proves("FR-020")
def test_with_a_full_disk_the_file_takes_over_and_what_it_cannot_take_is_counted(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = program(tmp_path, 100_000, 500, "end", full)
        process.communicate(timeout=60)
    assert numbers(*kept(tmp_path)) == list(range(500))
    # And with nowhere to write at all
    (tmp_path / "file").touch()
    with Path("/dev/full").open("wb") as full:
        process = program(tmp_path / "file", 100_000, 500, "wait", full)
        assert process.stderr is not None and process.stdin is not None
        process.stderr.readline()
        time.sleep(1)
        process.stdin.write("go on\n")
        _, told = process.communicate(timeout=60)
    dropped, finished, _ = told.split()
    assert (int(dropped) >= 500, finished) == (True, "True")


def test_more_than_may_wait_is_dropped_and_counted(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = program(tmp_path, 100, 5_000, "end", writer)
    _, told = process.communicate(timeout=60)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = numbers(pipe.read(), *kept(tmp_path))
    dropped = int(told.split()[1])
    assert dropped > 0 and len(found) + dropped == 5_000


def test_the_end_has_a_deadline_even_if_the_disk_hangs(tmp_path: Path) -> None:
    # Given a writer that waits for ever: a full stdout, and in the file's place a pipe that nobody opens
    os.mkfifo(tmp_path / "i-votes.log")
    with Path("/dev/full").open("wb") as full:
        process = program(tmp_path, 100_000, 20, "end", full)
        _, told = process.communicate(timeout=60)
    # Then the process says that it could not finish, and ends
    _, _, finished, took_s = told.split()
    assert (finished, process.returncode) == ("False", 0) and float(took_s) < 10
