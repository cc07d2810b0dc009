"""Deletes what is kept no longer: expired polls with all that belongs to them, and old bookkeeping."""

from models.arrays import numbers
from models.database import Database
from models.times import at

# Locked in the order in which votes lock them; a poll that is being written to is left for the next call.
TAKE_EXPIRED = """
SELECT id FROM polls WHERE expires_at <= %s ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""

# voting_periods, state_changes and hosts go with their poll.
DELETE_POLLS = """
DELETE FROM votes WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM tallies WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM participants WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM rejected_votes WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM poll_batches WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM poll_flushes WHERE poll_id = ANY(%(polls)s::bigint[]);
DELETE FROM polls WHERE id = ANY(%(polls)s::bigint[])
"""

FORGET = """
DELETE FROM applied_batches WHERE applied_at < %(before)s;
DELETE FROM nodes WHERE last_seen_at_us < %(before_us)s;
DELETE FROM rejected_votes r WHERE rejected_at < %(before)s AND NOT EXISTS (SELECT FROM polls p WHERE p.id = r.poll_id)
"""

FORGET_AUDIT = """
DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < %s LIMIT %s)
"""


def delete_expired(db: Database, now_us: int, limit: int = 5) -> int:
    """Delete up to ``limit`` polls whose time is over, in one transaction. Returns how many; 0 when none is left."""
    with db.transaction():
        expired = [poll_id for (poll_id,) in db.execute(TAKE_EXPIRED, (at(now_us), limit))]
        if expired:
            db.execute(DELETE_POLLS, {"polls": numbers(expired)})
        return len(expired)


def forget_batches(db: Database, before_us: int) -> None:
    """Forget which batches were applied before that time, nodes last heard of before it, votes for polls that are gone.

    A batch that is redelivered after it was forgotten still counts no vote twice, thanks to ``seq``, but is applied
    anew; so let ``before_us`` lie further back than any message can wait (days).
    """
    with db.transaction():
        db.execute(FORGET, {"before": at(before_us), "before_us": before_us})


def forget_audit(db: Database, before_us: int, limit: int = 10_000) -> int:
    """Delete up to ``limit`` audit entries from before that time. Returns how many; 0 when none is left."""
    with db.transaction():
        return int(db.execute(FORGET_AUDIT, (at(before_us), limit)).rowcount)
