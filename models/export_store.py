"""Reads a poll's results row by row, for the CSV export."""

from collections.abc import Iterator
from datetime import datetime

from models.database import Database

# (nickname or None for somebody who never registered, option index, first vote, last vote)
ResultRow = tuple[str | None, int, datetime, datetime]

# A server-side cursor: one snapshot of the whole poll, and never more than a chunk of it in memory.
DECLARE = """
DECLARE result_rows NO SCROLL CURSOR FOR
SELECT p.nickname, v.option_index, v.first_voted_at, v.submitted_at
FROM votes v LEFT JOIN participants p ON p.participant_id = v.participant_id
WHERE v.poll_id = %s ORDER BY v.participant_id
"""
FETCH = "FETCH %s FROM result_rows"


def result_rows(db: Database, poll_id: int, chunk: int = 2000) -> Iterator[list[ResultRow]]:
    """One row per participant who voted, ``chunk`` at a time, in the order in which they joined.

    Holds the calling thread's connection until it is exhausted or closed, so run no other transaction in between. The
    server ends the transaction (``DatabaseUnavailable``) when more than ``call_deadline_s`` pass between two chunks.
    """
    with db.transaction():
        db.execute(DECLARE, (poll_id,))
        while rows := db.execute(FETCH, (chunk,)).fetchall():
            yield rows
