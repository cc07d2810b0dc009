"""Appends to the audit log."""

from collections.abc import Sequence
from typing import Any

from models.database import Database
from models.tables import AuditRow
from models.times import at
from models.wire.commands import AuditEntry


def append(db: Database, entries: Sequence[AuditEntry]) -> None:
    """Add all entries, or none. Not idempotent: a repeated call adds them again."""
    if not entries:
        return
    with db.transaction():
        db.run(AuditRow.insert_many([_row(entry) for entry in entries]))


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
