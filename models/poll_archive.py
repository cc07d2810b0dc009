"""A poll past its retention as a compressed file: JSON, one value per line.

The first line is the poll as it was, with ``format`` 1. Each line after it is one participant's vote, as
``[participant, nickname or null, option, first and last vote in microseconds]``; the last line is ``{"votes": N}``, so
that a file that was cut off is known by its lack. Participants who never voted are not in it.
"""

import gzip
from collections.abc import Iterator
from typing import IO
from uuid import UUID

import msgspec

from models import export_store
from models.database import Database
from models.retention_store import RetiredPoll
from models.wire.notices import ExportedVote

FORMAT = 1
_PAGE = 5000


class IncompleteArchive(Exception):
    """The votes are not as many as the poll's totals say: one of the two is wrong, and nothing may be deleted."""


def file_name(poll: RetiredPoll) -> str:
    """Room codes are used again, ids never; by day, so that no folder grows without bound.

    With the version: a poll that comes back by a restore, to be archived once more, may lack votes that it had before.
    """
    about = f"{poll.room_code}-{poll.poll_id}-{poll.document['version']}"
    return f"{poll.document['created_at'][:10]}/{about}.jsonl.gz"


def write(db: Database, poll: RetiredPoll, out: IO[bytes]) -> None:
    """Write a poll and its votes, page by page: no transaction stays open between pages.

    :raises IncompleteArchive: what was written must not be kept
    """
    votes = 0
    # Without the time, so that writing a poll again gives the same file.
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed:
        packed.write(msgspec.json.encode({"format": FORMAT} | poll.document) + b"\n")
        for page in _pages(db, poll.poll_id):
            packed.writelines(msgspec.json.encode(vote) + b"\n" for vote in page)
            votes += len(page)
        packed.write(msgspec.json.encode({"votes": votes}) + b"\n")
    if votes != poll.votes:
        raise IncompleteArchive(f"poll {poll.poll_id}: {votes} votes, but its totals say {poll.votes}")


def read(file: IO[bytes]) -> tuple[dict[str, object], list[ExportedVote]]:
    """The poll and its votes.

    :raises IncompleteArchive: the file was cut off
    """
    with gzip.GzipFile(fileobj=file) as packed:
        first, *rows, last = packed.read().splitlines()
    votes = [msgspec.json.decode(row, type=ExportedVote) for row in rows]
    if msgspec.json.decode(last) != {"votes": len(votes)}:
        raise IncompleteArchive(f"{len(votes)} votes, and no last line that says so")
    return msgspec.json.decode(first), votes


def _pages(db: Database, poll_id: int) -> Iterator[tuple[ExportedVote, ...]]:
    after: UUID | None = None
    while page := export_store.read_page(db, poll_id, after, _PAGE):
        yield page
        after = page[-1].participant_id
