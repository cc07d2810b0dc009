"""Shows the audit log, newest last. Addresses are kept as keyed hashes: --address looks for the hash of one.

Exit status: 0 done, 2 wrong usage, 75 the database can't be reached.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence

from models.audit_store import Filters, Kept, find
from models.database import DatabaseUnavailable, open_database
from models.runtime.hashed_addresses import hashed_address
from models.runtime.settings import load_or_exit

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def main(words: Sequence[str]) -> int:
    options = parse(words)
    settings = load_or_exit()
    filters = Filters(
        since_us=int((time.time() - options.since) * 1e6),
        event=options.event,
        outcome=options.outcome,
        room_code=options.room.upper() if options.room else None,
        address=hashed_address(settings.audit.address_key, options.address) if options.address else None,
        correlation_id=options.correlation_id,
    )
    db = open_database(settings.database, "votemill-audit")
    try:
        for entry in find(db, filters, options.limit):
            print(json.dumps(as_json(entry), ensure_ascii=False) if options.json else line(entry))
        return 0
    except DatabaseUnavailable as error:
        print(f"audit: {error}", file=sys.stderr)
        return 75
    finally:
        db.close()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/audit", description=__doc__)
    parser.add_argument("--since", type=duration, default="24h", help="how far back: 90s, 15m, 12h, 7d (default 24h)")
    parser.add_argument("--event", help="rate_limited, origin_refused, invalid_input, poll_created, ...")
    parser.add_argument("--outcome", choices=["ok", "refused", "failed"])
    parser.add_argument("--room", help="a room code")
    parser.add_argument("--address", help="an address, as it came")
    parser.add_argument("--correlation-id", help="as the refusal told it")
    parser.add_argument("--limit", type=int, default=100, help="the newest so many (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(words)
    if options.limit < 1:
        parser.error("--limit must be positive")
    return options


def as_json(entry: Kept) -> dict[str, object]:
    shown: dict[str, object] = entry._asdict()
    return {**shown, "at": entry.at.isoformat()}


def line(entry: Kept) -> str:
    """One entry for people."""
    more = {"room": entry.room_code, "actor": entry.actor, "address": entry.address, **entry.details}
    told = "  ".join(f"{name}={value}" for name, value in more.items() if value)
    at = f"{entry.at:%Y-%m-%d %H:%M:%S}"
    return f"{at}  {entry.outcome:<7}  {entry.event:<26} {entry.action:<24} {told}".rstrip()


def duration(text: str) -> int:
    """Seconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number with s, m, h or d")
    return int(match[1]) * _UNITS_S[match[2]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
