"""Counts the votes again: proves that tallies equal votes, and repairs a tally that doesn't.

``python -m models.recount [--fix | --replica]`` exits with 0 when all agree, 1 when some don't, 75 when the database
is away or the standby behind.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from models import standby
from models.audit_store import append
from models.database import Database, DatabaseUnavailable, open_database
from models.runtime.settings import load_or_exit
from models.wire.commands import AuditEntry

_CHUNK = 50
_TOO_LARGE = 2_000_000  # votes; counting them takes about half a second
_PATIENCE_S = 600.0  # a big poll takes longer to count than any statement of a running service

NEXT_POLLS = "SELECT id FROM polls WHERE id > %s ORDER BY id LIMIT %s"

# Votes and tally change in one transaction, and one statement reads one moment, so no lock is needed to compare them.
COUNT_AGAIN = """
SELECT p.id, p.room_code, t.votes,
  ARRAY(SELECT coalesce((counted.by_option ->> o::text)::bigint, 0)
    FROM generate_series(0, cardinality(p.options) - 1) o),
  (SELECT coalesce(sum(n::bigint), 0) FROM jsonb_each_text(counted.by_option) AS e (o, n)
    WHERE o::integer >= cardinality(p.options))::bigint
FROM polls p LEFT JOIN tallies t ON t.poll_id = p.id, LATERAL (
  SELECT coalesce(jsonb_object_agg(option_index, n), '{}') AS by_option FROM (
    SELECT option_index, count(*) AS n FROM votes v WHERE v.poll_id = p.id GROUP BY 1
  ) AS per_option
) AS counted
WHERE p.id BETWEEN %s AND %s ORDER BY p.id
"""

# Ids tell nothing of age. Polls end in the order in which they were made, and that is in an index.
NEWEST_POLLS = """
SELECT p.id, p.expires_at, coalesce((SELECT sum(n) FROM unnest(t.votes) AS u (n)), 0)::bigint
FROM polls p LEFT JOIN tallies t ON t.poll_id = p.id
WHERE p.expires_at <= %(expires)s AND (p.expires_at, p.id) < (%(expires)s, %(id)s)
ORDER BY p.expires_at DESC, p.id DESC LIMIT %(limit)s
"""

LOCK_POLL = "SELECT FROM polls WHERE id = %s FOR NO KEY UPDATE"

STORE_TALLY = """
INSERT INTO tallies (poll_id, votes) VALUES (%(poll_id)s, %(votes)s::bigint[])
ON CONFLICT (poll_id) DO UPDATE SET votes = excluded.votes;
UPDATE polls SET version = greatest(version + 1, %(now_us)s), changed_at_rest_us = %(now_us)s WHERE id = %(poll_id)s
"""


Place = tuple[datetime | str, int]  # a poll's, among all: when it expires, and its id


_NEWEST: Place = ("infinity", 0)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """``tally`` is what is stored (None: no row), ``counted`` what the votes say; one total per option.

    ``stray`` votes are for options that the poll doesn't have.
    """

    poll_id: int
    room_code: str
    tally: tuple[int, ...] | None
    counted: tuple[int, ...]
    stray: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """``oldest`` of the polls that were looked at, for ``count_some``; None when there was none."""

    polls: int
    oldest: Place | None
    mismatches: list[Mismatch]


def recount(db: Database) -> list[Mismatch]:
    """Compare every poll's tally with its votes, each poll at one moment; safe while votes come in."""
    found: list[Mismatch] = []
    last = 0
    while True:
        with db.transaction():
            ids = [poll_id for (poll_id,) in db.execute(NEXT_POLLS, (last, _CHUNK))]
            if not ids:
                return found
            found += _compare(db, ids[0], ids[-1])
        last = ids[-1]


def count_some(
    db: Database, older_than: Place | None, again: Sequence[int], most_polls: int, most_votes: int
) -> Counted:
    """Compare a few polls, ``again`` and then the newest that are older than one; no more after ``most_votes`` votes.

    Passes over the very large: a running service must not wait for them.
    """
    polls, oldest, votes_left = len(again), None, most_votes
    expires, poll_id = older_than or _NEWEST
    values = {"expires": expires, "id": poll_id, "limit": most_polls}
    with db.transaction():
        found = [mismatch for poll_id in again for mismatch in _compare(db, poll_id, poll_id)]
        for poll_id, expires, votes in db.execute(NEWEST_POLLS, values).fetchall():
            if votes_left <= 0:
                break
            oldest = expires, poll_id
            if votes <= _TOO_LARGE and poll_id not in again:
                found += _compare(db, poll_id, poll_id)
                polls += 1
                votes_left -= votes
    return Counted(polls, oldest, found)


def repair(db: Database, poll_id: int, now_us: int) -> Mismatch | None:
    """Set a poll's tally to what its votes say and raise its version. None when it was right, or there is no poll."""
    with db.transaction():
        db.execute(LOCK_POLL, (poll_id,))
        for mismatch in _compare(db, poll_id, poll_id):
            votes = list(mismatch.counted)
            db.execute(STORE_TALLY, {"poll_id": poll_id, "votes": votes, "now_us": now_us})
            append(db, [_audit_entry(mismatch, now_us)])
            return mismatch
    return None


def _compare(db: Database, first_id: int, last_id: int) -> list[Mismatch]:
    found = []
    for poll_id, room_code, tally, counted, stray in db.execute(COUNT_AGAIN, (first_id, last_id)):
        if tally != counted or stray:
            stored = None if tally is None else tuple(tally)
            found.append(Mismatch(poll_id, room_code, stored, tuple(counted), stray))
    return found


def _audit_entry(mismatch: Mismatch, now_us: int) -> AuditEntry:
    details = {"tally": str(mismatch.tally), "counted": str(mismatch.counted)}
    return AuditEntry(now_us, "tally_repaired", "recount", "ok", mismatch.room_code, details=details)


def _demand_news(lag_s: float | None, max_lag_s: float) -> None:
    """Tallies equal votes at any moment that was, so a standby that is cut off would agree for ever."""
    if lag_s is None or lag_s > max_lag_s:
        behind = "cut off from its primary" if lag_s is None else f"{lag_s:.1f} s behind"
        raise DatabaseUnavailable("refused", f"the standby is {behind}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="recount", description="Prove that tallies equal votes.")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fix", action="store_true", help="set the tallies that differ to what the votes say")
    how.add_argument("--replica", action="store_true", help="count on the standby, to spare the primary")
    arguments = parser.parse_args()
    settings = msgspec.structs.replace(
        load_or_exit().database, statement_timeout_s=_PATIENCE_S, call_deadline_s=_PATIENCE_S
    )
    if arguments.replica:
        if not settings.replica_url:
            parser.error("--replica: database.replica_url names no standby")
        settings = msgspec.structs.replace(settings, url=settings.replica_url)
    db = open_database(settings, "votemill-recount", writable=not arguments.replica)
    try:
        if arguments.replica:
            _demand_news(standby.read_lag_s(db), settings.replica_max_lag_s)
        found = recount(db)
        for mismatch in found:
            print(f"{mismatch.room_code}: tally {mismatch.tally}, votes {mismatch.counted}, stray {mismatch.stray}")
            if arguments.fix:
                repair(db, mismatch.poll_id, int(time.time() * 1e6))
        print(f"{len(found)} of the polls differ" + (", repaired" if found and arguments.fix else ""))
        return 1 if found and not arguments.fix else 0
    except DatabaseUnavailable as error:
        print(f"recount: {error}", file=sys.stderr)
        return 75
    finally:
        db.close()


if __name__ == "__main__":
    sys.exit(main())
