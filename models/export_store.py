"""Reads a poll's results page by page, for the exports."""

from uuid import UUID

from models.database import Database
from models.wire.notices import ExportedVote

# Pages by primary key: each is read by itself, so an export that nobody reads on holds no connection.
READ_PAGE = """
SELECT v.participant_id, p.nickname, v.option_index,
  (extract(epoch FROM v.first_voted_at) * 1000000)::bigint, (extract(epoch FROM v.submitted_at) * 1000000)::bigint
FROM votes v LEFT JOIN participants p ON p.participant_id = v.participant_id
WHERE v.poll_id = %s AND v.participant_id > %s ORDER BY v.participant_id LIMIT %s
"""
# With those who have not voted. No index has this order, so each page sorts the poll's participants: up to some ten
# thousand of them, milliseconds.
READ_PAGE_OF_ALL = """
SELECT p.participant_id, p.nickname, v.option_index,
  (extract(epoch FROM v.first_voted_at) * 1000000)::bigint, (extract(epoch FROM v.submitted_at) * 1000000)::bigint
FROM participants p LEFT JOIN votes v ON v.poll_id = p.poll_id AND v.participant_id = p.participant_id
WHERE p.poll_id = %s AND p.participant_id > %s ORDER BY p.participant_id LIMIT %s
"""
_BEFORE_ALL = UUID(int=0)


def read_page(
    db: Database, poll_id: int, after: UUID | None, limit: int, *, everybody: bool = False
) -> tuple[ExportedVote, ...]:
    """Up to ``limit`` participants who voted, or who joined, in the order in which they joined, behind ``after``."""
    with db.transaction():
        rows = db.execute(READ_PAGE_OF_ALL if everybody else READ_PAGE, (poll_id, after or _BEFORE_ALL, limit))
        return tuple(ExportedVote(*row) for row in rows)
