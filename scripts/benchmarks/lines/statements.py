"""SC-007: the 95th percentile of every SQL statement at a normal load, by PostgreSQL's own clock and log."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row, percentile

VOTERS, ROOMS, RATE = 500, 20, 2_000.0
_LIMIT_MS = 100.0
_FEWEST = 5
_NEW_ENTRY = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_DURATION = re.compile(r"duration: ([\d.]+) ms  (?:statement|execute [^:]*): (?:/\*.*?\*/ )?(.*)", re.DOTALL)
_SHOWN_CHARACTERS = 60
_LOG_ARRIVES_S = 1.0


def run(bench: Bench) -> list[Row]:
    log = bench.stage.folder.log("postgres")
    with bench.votemill(VOTERS, ROOMS) as side:
        bench.stage.administer("ALTER SYSTEM SET log_min_duration_statement = 0")
        bench.stage.administer("SELECT pg_reload_conf()")
        try:
            time.sleep(_LOG_ARRIVES_S)
            start = log.stat().st_size
            side.take_turn(bench.window_s * 2, RATE)
            time.sleep(_LOG_ARRIVES_S)
        finally:
            bench.stage.administer("ALTER SYSTEM RESET log_min_duration_statement")
            bench.stage.administer("SELECT pg_reload_conf()")
    with log.open(errors="replace") as text:
        text.seek(min(start, log.stat().st_size))
        durations = durations_by_statement(text)
    aims = (Aim("ours", "<=", _LIMIT_MS),)
    rows = []
    for statement, all_ms in sorted(durations.items(), key=lambda item: -percentile(item[1], 95)):
        bench.keep("statements", {"statement": statement, "calls": len(all_ms), "max_ms": max(all_ms)})
        if len(all_ms) >= _FEWEST:
            what = f"p95 of {len(all_ms)} x {statement}"
            rows.append(Row("statements", what, "ms", [percentile(all_ms, 95)], aims=aims))
    return rows


def durations_by_statement(lines: Iterable[str]) -> dict[str, list[float]]:
    """Milliseconds of each statement in PostgreSQL's log, by how its text begins (values cut away)."""
    found: dict[str, list[float]] = defaultdict(list)
    for entry in _entries(lines):
        match = _DURATION.search(entry)
        if match:
            text = " ".join(re.sub(r"'[^']*'?|\d+", "?", match[2]).split())
            found[text[:_SHOWN_CHARACTERS]].append(float(match[1]))
    return dict(found)


def _entries(lines: Iterable[str]) -> Iterator[str]:
    entry = ""
    for line in lines:
        if _NEW_ENTRY.match(line):
            yield entry
            entry = ""
        entry += line
    yield entry
