"""Takes out of the tables what is kept no longer, in steps of a few milliseconds each.

A poll goes in two stages. ``retire`` takes it out of ``polls`` with one short lock: from then on a vote for it is
answered "Poll not found", and its room code is free. What it leaves behind, which nobody writes to or waits for any
more, is then deleted in small batches, and ``retired_polls`` remembers what is still to be done.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from models.arrays import numbers
from models.audit_store import append
from models.database import Database
from models.times import as_us, at
from models.wire.commands import AuditEntry

# A version is the time of the last change of votes or state.
_IN_USE = "version >= %(since_us)s AND expires_at < created_at + %(most_days)s * interval '1 day'"

# Before its time is over, so that nodes never take a poll in use for one that is gone: they learn of it with the next
# totals.
PUT_OFF = f"""
UPDATE polls SET expires_at = least(%(now)s + interval '1 day', created_at + %(most_days)s * interval '1 day')
WHERE id = ANY(ARRAY(
  SELECT id FROM polls WHERE expires_at <= %(now)s + interval '1 hour' AND {_IN_USE} FOR NO KEY UPDATE SKIP LOCKED
))
"""  # nosec B608

# Locked in the order in which votes lock them; a poll that is being written to is left for the next call.
TAKE_EXPIRED = f"""
SELECT id FROM polls WHERE expires_at <= %(now)s AND NOT ({_IN_USE}) ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""  # nosec B608

# A statement of its own, so that it sees what was committed while the rows were being locked. voting_periods,
# state_changes and hosts go with their poll; whose browser or address it was is nobody's business any more.
RETIRE = """
INSERT INTO retired_polls (poll_id, room_code, document, retired_at)
SELECT p.id, p.room_code, to_jsonb(p) - 'creator_address' - 'command_id' || jsonb_build_object(
    'votes', (SELECT votes FROM tallies WHERE poll_id = p.id),
    'voting_periods', (SELECT coalesce(jsonb_agg(jsonb_build_array(opened_at_us, closed_at_us) ORDER BY ordinal), '[]')
      FROM voting_periods WHERE poll_id = p.id),
    'state_changes', (SELECT coalesce(jsonb_agg(jsonb_build_array(at_us, new_state) ORDER BY at_us, id), '[]')
      FROM state_changes WHERE poll_id = p.id)
  ), %(now)s
FROM polls p WHERE id = ANY(%(polls)s::bigint[]);
DELETE FROM polls WHERE id = ANY(%(polls)s::bigint[])
"""

READ_RETIRED = """
SELECT poll_id, room_code, document, retired_at, archived_at IS NOT NULL FROM retired_polls WHERE poll_id > %s
ORDER BY poll_id LIMIT 1
"""

LEFT_BEHIND = ("votes", "participants", "rejected_votes", "poll_batches", "poll_flushes", "left_out_polls", "tallies")

DELETE_LEFT_BEHIND = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE poll_id = %s LIMIT %s))
"""

# Votes can't have come since. What can, a sighting of a participant or a note on a rejected vote, goes by its age.
FORGET_RETIRED = """
DELETE FROM retired_polls r WHERE poll_id = %s AND NOT EXISTS (SELECT FROM votes v WHERE v.poll_id = r.poll_id)
"""

# Ids are ordered by time (UUIDv7), so who joined long ago comes first and no index on last_seen_at is needed, which
# would make every sighting dearer. Who joined long ago and was seen since is passed over.
FORGET_PARTICIPANTS = """
WITH old AS (
  SELECT participant_id FROM participants
  WHERE participant_id > %(after)s AND participant_id < %(joined_before)s ORDER BY participant_id LIMIT %(limit)s
), gone AS (
  DELETE FROM participants p USING old
  WHERE p.participant_id = old.participant_id AND p.last_seen_at < %(before)s RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT participant_id FROM old ORDER BY 1 DESC LIMIT 1)
"""

FORGET = {
    "applied_batches": "applied_at < %(before)s",
    "rejected_votes": "rejected_at < %(before)s AND NOT EXISTS (SELECT FROM polls WHERE id = poll_id)",
    "audit_log": "at < %(before)s",
}

FORGET_NODES = "DELETE FROM nodes WHERE last_seen_at_us < %s"

COUNT_EXPIRED = f"""
SELECT count(*), coalesce(sum((SELECT sum(n) FROM unnest(t.votes) AS u (n))), 0)::bigint
FROM polls p LEFT JOIN tallies t ON t.poll_id = p.id WHERE expires_at <= %(now)s AND NOT ({_IN_USE})
"""  # nosec B608

COUNT_PARTICIPANTS = "SELECT count(*) FROM participants WHERE last_seen_at < %s"

_NOBODY = UUID(int=0)
_IN_USE_US = 86_400 * 1_000_000


@dataclass(frozen=True)
class RetiredPoll:
    """``document``: the poll as it was. ``archived``: a copy of it and its votes is safe."""

    poll_id: int
    room_code: str
    document: dict[str, Any]
    retired_at: datetime
    archived: bool

    @property
    def votes(self) -> int:
        """How many there were."""
        return sum(self.document["votes"] or ())


def retire(db: Database, now_us: int, limit: int, most_days: int) -> list[int]:
    """Take up to ``limit`` polls whose time is over out of ``polls``. Their ids; none when no poll is left.

    A poll in use, of which votes or state have changed within a day, is given another one, until it is ``most_days``
    old.
    """
    with db.transaction():
        values = _when(now_us, most_days) | {"limit": limit}
        db.execute(PUT_OFF, values)
        expired = [poll_id for (poll_id,) in db.execute(TAKE_EXPIRED, values)]
        if expired:
            db.execute(RETIRE, {"polls": numbers(expired), "now": at(now_us)})
        return expired


def next_retired(db: Database, after: int) -> RetiredPoll | None:
    """The retired poll with the next id behind ``after``; None when there is none."""
    with db.transaction():
        row = db.execute(READ_RETIRED, (after,)).fetchone()
        return RetiredPoll(*row) if row else None


def note_archived(db: Database, poll_id: int, place: str, now_us: int) -> None:
    """A copy is safe in ``place``: what the poll has left behind may be deleted."""
    with db.transaction():
        sql = "UPDATE retired_polls SET archived_at = %s WHERE poll_id = %s RETURNING room_code"
        (room_code,) = db.execute(sql, (at(now_us), poll_id)).fetchone()
        append(db, [AuditEntry(now_us, "poll_archived", "retention", "ok", room_code, details={"place": place})])


def delete_left_behind(db: Database, poll_id: int, table: str, limit: int) -> int:
    """Delete up to ``limit`` of a retired poll's rows in one of ``LEFT_BEHIND``. How many; fewer were the last."""
    with db.transaction():
        return int(db.execute(DELETE_LEFT_BEHIND.format(table=table), (poll_id, limit)).rowcount)


def forget_retired(db: Database, poll: RetiredPoll, now_us: int) -> bool:
    """The end of a poll, with an audit entry; False while votes of it are left."""
    with db.transaction():
        if not db.execute(FORGET_RETIRED, (poll.poll_id,)).rowcount:
            return False
        details = {"poll_id": str(poll.poll_id), "votes": str(poll.votes), "retired_at": str(as_us(poll.retired_at))}
        append(db, [AuditEntry(now_us, "poll_deleted", "retention", "ok", poll.room_code, details=details)])
        return True


def forget_participants(db: Database, before_us: int, after: UUID | None, limit: int) -> tuple[int, UUID | None]:
    """Delete, of the ``limit`` next participants by id, those last seen before that time. Their votes stay.

    :return: how many went, and the id to go on ``after``; None at the end
    """
    values = {
        "after": after or _NOBODY,
        "joined_before": UUID(int=before_us // 1000 << 80),
        "before": at(before_us),
        "limit": limit,
    }
    with db.transaction():
        deleted, last = db.execute(FORGET_PARTICIPANTS, values).fetchone()
        return deleted, last


def forget(db: Database, table: str, before_us: int, limit: int) -> int:
    """Delete up to ``limit`` rows from before that time in one of ``FORGET``. How many; fewer were the last.

    A batch that is redelivered after it was forgotten still counts no vote twice, thanks to ``seq``, but is applied
    anew; so let ``before_us`` of ``applied_batches`` lie further back than any message can wait (days).
    """
    # FORGET has its key, so the name is one of ours.
    old = f"SELECT ctid FROM {table} WHERE {FORGET[table]} LIMIT %(limit)s"  # nosec B608
    with db.transaction():
        sql = f"DELETE FROM {table} WHERE ctid = ANY(ARRAY({old}))"  # nosec B608
        return int(db.execute(sql, {"before": at(before_us), "limit": limit}).rowcount)


def forget_nodes(db: Database, before_us: int) -> None:
    """Forget nodes that were last heard of before that time."""
    with db.transaction():
        db.execute(FORGET_NODES, (before_us,))


def _when(now_us: int, most_days: int) -> dict[str, Any]:
    return {"now": at(now_us), "since_us": now_us - _IN_USE_US, "most_days": most_days}


def count_expired(db: Database, now_us: int, most_days: int) -> tuple[int, int]:
    """How many polls ``retire`` would take, and their votes."""
    with db.transaction():
        polls, votes = db.execute(COUNT_EXPIRED, _when(now_us, most_days)).fetchone()
        return polls, votes


def count_retired(db: Database) -> int:
    """How many polls are on their way out."""
    with db.transaction():
        return int(db.execute("SELECT count(*) FROM retired_polls").fetchone()[0])


def count_participants(db: Database, before_us: int) -> int:
    """How many participants were last seen before that time. Reads the whole table."""
    with db.transaction():
        return int(db.execute(COUNT_PARTICIPANTS, (at(before_us),)).fetchone()[0])


def count_old(db: Database, table: str, before_us: int) -> int:
    """How many rows ``forget`` would delete in the end."""
    with db.transaction():
        sql = f"SELECT count(*) FROM {table} WHERE {FORGET[table]}"  # nosec B608
        return int(db.execute(sql, {"before": at(before_us)}).fetchone()[0])
