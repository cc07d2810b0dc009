"""Calls totals final once every vote from before the close is decided."""

import logging
import time
from uuid import UUID

from models import final_store, poll_store
from models.database import DatabaseUnavailable
from models.runtime.settings import Settings
from models.wire.notices import StateChanged
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.results import ResultsPublisher

log = logging.getLogger(__name__)

_REMIND_EVERY_S = 5.0
_LATE_BATCHES_S = 60.0  # at least; a batch that was published and does not come for so long was dead-lettered
NOBODY = UUID(int=0)


class Finals:
    """Settles closed polls and publishes their final version.

    Every host worker looks: it costs one indexed query while no poll waits, and only one of them can settle a poll.
    """

    EVERY_S = 0.5

    def __init__(
        self,
        settings: Settings,
        gate: DatabaseGate,
        results: ResultsPublisher,
        notices: Notices,
        metrics: WorkerMetrics,
    ) -> None:
        self._gate = gate
        self._results = results
        self._metrics = metrics
        self._node_timeout_us = int(settings.room.node_timeout_s * 1_000_000)
        self._straggler_wait_us = int(settings.worker.straggler_wait_s * 1_000_000)
        self._late = final_store.LateBatches(
            int(max(_LATE_BATCHES_S, settings.worker.straggler_wait_s * 4) * 1_000_000)
        )
        self._notices = notices
        self._remind_at = 0.0

    def round(self) -> None:
        """:raises DatabaseUnavailable:"""
        try:
            settled = self._gate.call(
                lambda db: final_store.settle_finals(
                    db, None, self._node_timeout_us, self._straggler_wait_us, self._late
                )
            )
        except DatabaseUnavailable:
            self._late.forget()
            raise
        if settled:
            self._metrics.count("finals.settled", len(settled))
            log.info("finals_settled", extra={"polls": len(settled)})
            self._results.mark(settled)
        if time.monotonic() >= self._remind_at:
            self._remind_at = time.monotonic() + _REMIND_EVERY_S
            self._remind()

    def _remind(self) -> None:
        """Say again which polls are closed: a node that missed the close has not reported its batches."""
        waiting = self._gate.call(lambda db: final_store.waiting_for(db, int(_REMIND_EVERY_S * 1_000_000)))
        if not waiting:
            return
        for poll in self._gate.call(lambda db: poll_store.read_snapshots(db, waiting)):
            self._notices.tell_all(StateChanged(NOBODY, poll, poll.state))
        self._metrics.count("finals.reminded", len(waiting))
