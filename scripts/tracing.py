"""scripts/trace: one vote's or one command's way through all processes, with the time at each step, from their logs.

Reads our JSON lines, also behind a syslog header or inside Docker's own JSON, our text for people, and PostgreSQL's log
(where a slow statement shows the trace in its comment). Processes on several machines are put in order by their clocks.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

_TEXT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) \w+ +\S+ (\w+)((?: [\w.]+=.*)?)")
_PAIR = re.compile(r' ([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)')
_POSTGRES = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) (\w+) (\[.*)")
_DURATION = re.compile(r"duration: ([\d.]+) ms .*\*/ (.*)")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LISTS = ("batch_ids", "correlation_ids")
_NOT_SHOWN = {
    "timestamp", "level", "logger", "message", "event", "env", "service.name", "service.version", "service.instance",
    "correlation_id", "trace_id", "span_id", *_LISTS,
}  # fmt: skip
_ROUNDS = 5  # from the id to its vote, from there to the batch, to the transaction, to its statements


@dataclass(frozen=True)
class Line:
    """``raw`` identifies it: two processes never write the same."""

    at: datetime
    who: str
    event: str
    raw: str
    fields: dict[str, Any] = field(compare=False)
    number: int = field(compare=False, default=0)

    def names(self) -> set[str]:
        """Every id that this line is about."""
        single = (self.fields.get(key) for key in ("correlation_id", "batch_id", "command_id"))
        several = [name for key in _LISTS for name in _listed(self.fields.get(key))]
        return {str(name) for name in (*single, *several) if name}


class Way:
    """Everything that belongs to one id, found round by round: each finds ids that the next one looks for."""

    def __init__(self, wanted: set[str]) -> None:
        self._ids = wanted
        self._places: dict[str, set[int]] = {}  # batch id -> of the votes that are meant; those of others are left out
        self.lines: set[Line] = set()

    def look(self, lines: Iterable[tuple[str, str]]) -> bool:
        """Go through pairs of file name and line; True when there is more to look for."""
        known = len(self._ids), len(self.lines)
        for number, (name, raw) in enumerate(lines):
            if any(each in raw for each in self._ids) and (line := parse(raw, name)) and self._belongs(line):
                self.lines.add(replace(line, number=number))
                self._follow(line)
        return (len(self._ids), len(self.lines)) != known

    def _belongs(self, line: Line) -> bool:
        if line.event == "statement":
            return True  # it has one of the ids in its text
        found = line.names() & self._ids
        batch = line.fields.get("batch_id")
        if found == {batch} and "index" in line.fields and batch in self._places:
            return int(line.fields["index"]) in self._places[batch]
        return bool(found)

    def _follow(self, line: Line) -> None:
        batch, correlation = line.fields.get("batch_id"), line.fields.get("correlation_id")
        if batch and "index" in line.fields:
            self._ids.add(batch)
            self._places.setdefault(batch, set()).add(int(line.fields["index"]))
        if correlation and not line.fields.get("correlation_ids"):
            self._ids.add(correlation)

    def steps(self) -> list[tuple[datetime, str, str, dict[str, Any]]]:
        """When, who, what and more about it; a line also tells of moments before it, in fields named ``..._ms_ago``."""
        steps: list[tuple[datetime, str, str, dict[str, Any]]] = []
        for line in sorted(self.lines, key=lambda line: line.number):
            shown = {key: value for key, value in line.fields.items() if key not in _NOT_SHOWN}
            for key in [key for key in shown if key.endswith("_ms_ago")]:
                earlier = line.at - timedelta(milliseconds=float(shown.pop(key)))
                steps.append((earlier, line.who, f"{key.removesuffix('_ms_ago')} ({line.event})", {}))
            steps.append((line.at, line.who, line.event, shown))
        return sorted(steps, key=lambda step: step[0])


def parse(raw: str, name: str) -> Line | None:
    """A line of one of our logs or of PostgreSQL's, else None. ``name``: the file's, where the line names nobody."""
    start = raw.find("{")
    if start >= 0:
        try:
            fields = json.loads(raw[start:])
        except ValueError:
            fields = {}
        if "log" in fields and "event" not in fields:
            return parse(str(fields["log"]), name)
        if "event" in fields and "timestamp" in fields:
            who = str(fields.get("service.instance", name))
            return Line(datetime.fromisoformat(fields["timestamp"]), who, str(fields["event"]), raw, fields)
    if found := _TEXT.match(raw):
        pairs = {key: json.loads(value) if value.startswith('"') else value for key, value in _PAIR.findall(found[3])}
        at = datetime.fromisoformat(found[1]).astimezone()
        return Line(at, name, found[2], raw, pairs)
    if found := _POSTGRES.match(raw):
        at = datetime.strptime(f"{found[1]} +0000", "%Y-%m-%d %H:%M:%S.%f %z")  # our servers log in UTC
        timed = _DURATION.search(found[3])
        said = {"began_ms_ago": timed[1], "sql": timed[2]} if timed else {"said": found[3]}
        return Line(at, name, "statement", raw, said)
    return None


def _listed(value: Any) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(value or ())


def show(way: Way) -> Iterator[str]:
    """One line a step: milliseconds since the first, the clock, the process, the step and what it says."""
    steps = way.steps()
    for at, who, what, fields in steps:
        since_ms = (at - steps[0][0]).total_seconds() * 1000
        more = " ".join(f"{key}={value}" for key, value in fields.items())
        clock = at.astimezone(steps[0][0].tzinfo).strftime("%H:%M:%S.%f")
        yield f"{since_ms:10.3f} ms  {clock}  {who:<18} {what:<32} {more}".rstrip()


def spellings(given: str) -> set[str]:
    """What the logs may have in its place: of a traceparent the trace's id, of a UUID the digits alone."""
    if found := _TRACEPARENT.fullmatch(given):
        return {found[1]}
    return {given, json.dumps(given)[1:-1]} | ({given.replace("-", "").lower()} if _UUID.fullmatch(given) else set())


def main() -> int:
    """0; 1 when no line was found."""
    parser = argparse.ArgumentParser(prog="scripts/trace", description=__doc__)
    parser.add_argument("id", help="a correlation id, a traceparent, a vote's commandId or a batch's id")
    parser.add_argument("files", nargs="*", help="log files, - for stdin (default: those of the stack in --run-dir)")
    parser.add_argument("--run-dir", type=Path, default=Path(".run"))
    options = parser.parse_args()
    names = options.files or sorted(map(str, options.run_dir.glob("log/**/*.log*")))
    typed = sys.stdin.readlines() if "-" in names else []

    def lines() -> Iterator[tuple[str, str]]:
        for name in names:
            if name == "-":
                for line in typed:
                    yield "stdin", line
                continue
            with Path(name).open(errors="replace") as file:
                for line in file:
                    yield Path(name).name.split(".log")[0], line.rstrip("\n")

    way = Way(spellings(options.id))
    for _ in range(_ROUNDS):
        if not way.look(lines()):
            break
    if not way.lines:
        print(f"✗ nothing is logged of {options.id} in {', '.join(names) or options.run_dir}", file=sys.stderr)
        return 1
    print("\n".join(show(way)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
