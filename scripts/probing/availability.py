"""scripts/availability: how available the service was, and how long recoveries took, by the record of scripts/probe.

An outage lasts from the begin of the first round that failed to the end of the next that didn't; its length is right to
about a round. Time without rounds (no probe, or one that the rate limits refused) is named and counts as neither up nor
down. Exit status: 0 the aims of the specification are met (SC-001: 99.9 %; SC-008: recovered within 30 min on average),
1 they aren't, 2 wrong usage or no record, 3 met, but too little of the time is known to say so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from datetime import time as day_time
from pathlib import Path
from typing import Any

from scripts.audit_log import duration
from scripts.probing.outages import Availability, Span, availability, business_hours
from scripts.probing.record import read

AIM_PERCENT = 99.9  # SC-001
AIM_RECOVERY_S = 30 * 60.0  # SC-008
NOT_MET, NO_RECORD, NOT_KNOWN = 1, 2, 3


def main(words: Sequence[str]) -> int:
    options = parse(words)
    codes = [report(file, options) for file in options.records]
    return next((code for code in (NO_RECORD, NOT_MET, NOT_KNOWN) if code in codes), 0)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/availability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="NAME.jsonl of a probe; reported singly"
    )
    parser.add_argument("--since", type=_moment, help="30d, 12h, or 2026-11-28T08:00:00Z (default: the record's begin)")
    parser.add_argument("--until", type=_moment, help="(default: now)")
    parser.add_argument(
        "--hours", type=_hours, help="only these hours of Monday to Friday, in this machine's time: 08:00-18:00"
    )
    parser.add_argument(
        "--known", type=float, default=90.0, help="percent of the time that must be known (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each record")
    return parser.parse_args(words)


def report(file: Path, options: argparse.Namespace) -> int:
    """Print what one record tells; the exit status."""
    try:
        rounds = list(read(file))
    except OSError as error:
        print(f"✗ {file}: {error.strerror}", file=sys.stderr)
        return NO_RECORD
    if not rounds:
        print(f"✗ {file}: no rounds", file=sys.stderr)
        return NO_RECORD
    within = Span(options.since or min(line["at"] for line in rounds), options.until or time.time())
    found = availability(rounds, _windows(within, options.hours))
    told = sum(within.begins <= line["at"] < within.ends for line in rounds)
    if options.json:
        print(json.dumps(as_json(file, within, told, found, options.known)))
    else:
        print(*lines(file, within, told, found, options.known), sep="\n")
    return verdict(found, options.known)


def _windows(within: Span, hours: tuple[day_time, day_time] | None) -> list[Span]:
    return [within] if hours is None else list(business_hours(within, *hours, zone=None))


def verdict(found: Availability, known: float) -> int:
    if found.percent < AIM_PERCENT or found.recovery_s >= AIM_RECOVERY_S:
        return NOT_KNOWN if not found.known_s else NOT_MET
    return 0 if found.known_percent >= known else NOT_KNOWN


def lines(file: Path, within: Span, rounds: int, found: Availability, known: float) -> Iterator[str]:
    """For people."""
    yield f"{file}: {_shown(within.begins)} to {_shown(within.ends)}, {rounds} rounds"
    enough = found.known_percent >= known
    yield f"{_mark(enough)} {found.known_percent:.1f} % of the time is known (wanted: {known:g} %)"
    up = found.percent >= AIM_PERCENT and bool(found.known_s)
    yield f"{_mark(up)} SC-001: available {found.percent:.3f} % (aim: {AIM_PERCENT} %), down for {_long(found.down_s)}"
    soon = found.recovery_s < AIM_RECOVERY_S
    number = len(found.outages)
    after = f", recovered after {_long(found.recovery_s)} on average" if number else ""
    yield f"{_mark(soon)} SC-008: {number} outage{'s' * (number != 1)}{after} (aim: under {_long(AIM_RECOVERY_S)})"
    for outage in found.outages:
        until = _shown(outage.span.ends) if outage.over else "goes on             "
        why = f"{_long(outage.lasted_s):>12}  {outage.step}: {outage.error}"
        yield f"  down     {_shown(outage.span.begins)}  {until}  {why}"
    for span in found.unknown:
        yield f"  unknown  {_shown(span.begins)}  {_shown(span.ends)}  {_long(span.ends - span.begins):>12}  no rounds"


def as_json(file: Path, within: Span, rounds: int, found: Availability, known: float) -> dict[str, Any]:
    """The same for programs; times in seconds, moments since the epoch."""
    return {
        "record": str(file), "since": within.begins, "until": within.ends, "rounds": rounds,
        "known_percent": round(found.known_percent, 3), "available_percent": round(found.percent, 4),
        "down_s": round(found.down_s, 1), "recovery_s": round(found.recovery_s, 1),
        "outages": [
            {"begins": outage.span.begins, "ends": outage.span.ends, "over": outage.over,
             "lasted_s": round(outage.lasted_s, 1), "step": outage.step, "error": outage.error}
            for outage in found.outages
        ],
        "unknown": [{"begins": span.begins, "ends": span.ends} for span in found.unknown],
        "aims_met": verdict(found, known) == 0,
    }  # fmt: skip


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _shown(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%SZ}"


def _long(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        return time.time() - duration(text)


def _hours(text: str) -> tuple[day_time, day_time]:
    try:
        begins, ends = (day_time.fromisoformat(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HH:MM-HH:MM") from None
    if begins >= ends:
        raise argparse.ArgumentTypeError(f"{text!r}: must end after its begin")
    return begins, ends


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
