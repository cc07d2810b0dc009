"""Appends to the audit log, and reads it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from models.database import Database
from models.tables import AuditRow
from models.times import at
from models.wire.commands import AuditEntry

# From the newest back, so that the limit keeps those that are asked for most; the age has a BRIN index.
FIND = """
SELECT at, event, action, outcome, room_code, actor, address, correlation_id, details FROM audit_log
WHERE at >= %(since)s
  AND (%(event)s IS NULL OR event = %(event)s)
  AND (%(outcome)s IS NULL OR outcome = %(outcome)s)
  AND (%(room_code)s IS NULL OR room_code = %(room_code)s)
  AND (%(address)s IS NULL OR address = %(address)s)
  AND (%(correlation_id)s IS NULL OR correlation_id = %(correlation_id)s)
ORDER BY id DESC LIMIT %(limit)s
"""


class Kept(NamedTuple):
    """One entry as it is stored. ``address`` is a keyed hash."""

    at: datetime
    event: str
    action: str
    outcome: str
    room_code: str
    actor: str
    address: str
    correlation_id: str
    details: dict[str, str]


@dataclass(frozen=True)
class Filters:
    """What an entry must be; None for anything."""

    since_us: int = 0
    event: str | None = None
    outcome: str | None = None
    room_code: str | None = None
    address: str | None = None
    correlation_id: str | None = None


def append(db: Database, entries: Sequence[AuditEntry]) -> None:
    """Add all entries, or none. Not idempotent: a repeated call adds them again."""
    if not entries:
        return
    with db.transaction():
        db.run(AuditRow.insert_many([_row(entry) for entry in entries]))


def find(db: Database, filters: Filters, limit: int) -> list[Kept]:
    """The newest ``limit`` entries that fit, oldest first."""
    with db.transaction():
        found = db.execute(FIND, {**asdict(filters), "since": at(filters.since_us), "limit": limit}).fetchall()
    return [Kept(*row) for row in reversed(found)]


def _row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": at(entry.at_us),
        "event": entry.event,
        "action": entry.action,
        "outcome": entry.outcome,
        "room_code": entry.room_code,
        "actor": entry.actor,
        "address": entry.address,
        "correlation_id": entry.correlation_id,
        "details": entry.details,
    }
