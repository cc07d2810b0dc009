"""Deletes what is kept no longer: expired polls, bookkeeping of batches that can't come again, old audit entries."""

import logging

from models import retention_store
from workers.clock import now_us
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)

_POLLS_AT_ONCE = 5  # a transaction each: deleting a large poll must not hold locks for long
_MOST_ROUNDS = 1000
_DAY_US = 86_400 * 1_000_000
_BATCHES_KEPT_US = 3 * _DAY_US  # far longer than a message can wait in a queue


class Housekeeping:
    """Any number of workers may do this at once: each takes polls that no other has locked."""

    EVERY_S = 600.0

    def __init__(self, gate: DatabaseGate, metrics: WorkerMetrics, audit_retention_days: int) -> None:
        self._gate = gate
        self._audit_kept_us = audit_retention_days * _DAY_US
        self._metrics = metrics

    def round(self) -> None:
        """:raises DatabaseUnavailable:"""
        for _ in range(_MOST_ROUNDS):
            deleted = self._gate.call(lambda db: retention_store.delete_expired(db, now_us(), _POLLS_AT_ONCE))
            if not deleted:
                break
            self._metrics.count("polls.expired", deleted)
            log.info("expired_polls_deleted", extra={"polls": deleted})
        self._gate.call(lambda db: retention_store.forget_batches(db, now_us() - _BATCHES_KEPT_US))
        for _ in range(_MOST_ROUNDS):
            if not self._gate.call(lambda db: retention_store.forget_audit(db, now_us() - self._audit_kept_us)):
                break
