"""Reports: presence and the audit log. The first to wait when there is more to do than can be done."""

from models import audit_store, participant_store
from models.wire.commands import RecordAudit, RecordPresence
from workers.actors import AUDIT_LAST, Lane, declare
from workers.broker import CommandBroker
from workers.database_gate import DatabaseGate


class AuditActors:
    def __init__(self, gate: DatabaseGate) -> None:
        self._gate = gate

    def declare(self, broker: CommandBroker, lane: Lane) -> None:
        declare(broker, RecordPresence, self.record_presence, priority=AUDIT_LAST, lane=lane)
        declare(broker, RecordAudit, self.record_audit, priority=AUDIT_LAST, lane=lane)

    def record_presence(self, command: RecordPresence) -> None:
        self._gate.call(lambda db: participant_store.record_presence(db, command.sightings))

    def record_audit(self, command: RecordAudit) -> None:
        """A worker killed between commit and ack writes the entries twice; an audit log rather repeats than forgets."""
        self._gate.call(lambda db: audit_store.append(db, command.entries))
