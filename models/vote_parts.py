"""Batches of which a part is stored and the rest left for later, since somebody keeps a poll's row locked.

The batch is applied then; what was left out of it stands in ``left_out_polls``, one row per poll. Whoever takes a row
out stores those votes in the same transaction: each part takes effect once, whoever gets the batch again and how often.
"""

from collections.abc import Sequence, Set
from uuid import UUID

import msgspec

from models.arrays import numbers, uuids
from models.database import Database
from models.wire.commands import VoteBatch

LEAVE_OUT = """
INSERT INTO left_out_polls (batch_id, poll_id) SELECT * FROM unnest(%s::uuid[], %s::bigint[]) ORDER BY 1, 2
"""

TAKE_UP = """
DELETE FROM left_out_polls WHERE batch_id = ANY(%s::uuid[]) AND poll_id <> ALL(%s::bigint[]) RETURNING batch_id, poll_id
"""

READ_UNFINISHED = "SELECT DISTINCT batch_id FROM left_out_polls WHERE batch_id = ANY(%s::uuid[])"

# Waits for nobody. The locks are given up at once.
FIND_UNLOCKED = "SELECT id FROM polls WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"

FIND_KNOWN = "SELECT id FROM polls WHERE id = ANY(%s::bigint[])"


def polls_of(batch: VoteBatch) -> set[int]:
    """The polls that a batch counts for in its node's account."""
    return {vote.poll_id for vote in batch.votes}.union(batch.also_counts)


def find_locked(db: Database, poll_ids: Set[int]) -> set[int]:
    """Those of the polls whose row somebody has locked at this moment.

    :raises DatabaseUnavailable:
    """
    ids = numbers(sorted(poll_ids))
    with db.transaction():
        unlocked = {poll_id for (poll_id,) in db.execute(FIND_UNLOCKED, (ids,))}
        return {poll_id for (poll_id,) in db.execute(FIND_KNOWN, (ids,))} - unlocked


def leave_out(db: Database, batches: Sequence[VoteBatch], locked: Set[int]) -> list[VoteBatch]:
    """New batches without their votes of these polls, which are noted as left out."""
    pairs = [(batch.batch_id, poll_id) for batch in batches for poll_id in sorted(polls_of(batch) & locked)]
    if pairs:
        db.execute(LEAVE_OUT, (uuids(batch_id for batch_id, _ in pairs), numbers(poll_id for _, poll_id in pairs)))
    return [_part(batch, polls_of(batch) - locked) for batch in batches]


def take_up(db: Database, batches: Sequence[VoteBatch], locked: Set[int]) -> list[VoteBatch]:
    """Of batches that were applied before: what was left out of them and can be stored now."""
    polls: dict[UUID, set[int]] = {}
    ids = uuids(batch.batch_id for batch in batches)
    for batch_id, poll_id in db.execute(TAKE_UP, (ids, numbers(sorted(locked)))):
        polls.setdefault(batch_id, set()).add(poll_id)
    return [_part(batch, polls.pop(batch.batch_id)) for batch in batches if batch.batch_id in polls]


def unfinished(db: Database, batches: Sequence[VoteBatch]) -> set[UUID]:
    """Ids of those batches of which something is still left out."""
    return {batch_id for (batch_id,) in db.execute(READ_UNFINISHED, (uuids(batch.batch_id for batch in batches),))}


def _part(batch: VoteBatch, poll_ids: Set[int]) -> VoteBatch:
    votes = tuple(vote for vote in batch.votes if vote.poll_id in poll_ids)
    also_counts = tuple(poll_id for poll_id in batch.also_counts if poll_id in poll_ids)
    return msgspec.structs.replace(batch, votes=votes, also_counts=also_counts)
