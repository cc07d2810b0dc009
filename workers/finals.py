"""Calls totals final once every vote from before the close is decided."""

import logging
import time
from uuid import UUID

from models import final_store, poll_store
from models.database import DatabaseUnavailable
from models.final_store import Evidence
from models.runtime.settings import Settings
from models.wire.commands import ROUTES, NodeHeartbeat, VoteBatch
from models.wire.notices import StateChanged
from workers.database_gate import DatabaseGate
from workers.drains import Drain
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.queue_watch import QueueLevels
from workers.results import ResultsPublisher

log = logging.getLogger(__name__)

_REMIND_EVERY_S = 5.0
_BREAK_S = 3.0
NOBODY = UUID(int=0)


class Finals:
    """Settles closed polls and publishes their final version.

    Every host worker looks: it costs one indexed query while no poll waits, and only one of them can settle a poll.

    A node is in the tables before anybody can vote there, unless the database is away: then its first heartbeat waits
    in the hosts' queue. So after a start, and whenever this worker could not look, that queue is worked off first.
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
        levels = QueueLevels(settings.broker, f"{settings.worker.name} finals")
        self._votes = Drain(gate, levels, ROUTES[VoteBatch][1])
        self._hosts = Drain(gate, levels, ROUTES[NodeHeartbeat][1])
        self.close = levels.close
        self._notices = notices
        self._remind_at = 0.0
        self._looked_at = 0.0
        self._steady_since_us = 0

    def round(self) -> None:
        """:raises DatabaseUnavailable:"""
        try:
            outlook = self._settle()
        except DatabaseUnavailable:
            self._looked_at = 0.0
            raise
        if outlook.final:
            self._metrics.count("finals.settled", len(outlook.final))
            log.info("finals_settled", extra={"polls": len(outlook.final)})
            self._results.mark(outlook.final)
        if outlook.waits_for_votes:
            self._votes.round()
        if outlook.waits_for_hosts:
            self._hosts.round()
        if time.monotonic() >= self._remind_at:
            self._remind_at = time.monotonic() + _REMIND_EVERY_S
            self._remind()

    def _settle(self) -> final_store.Outlook:
        there_us = self._gate.call(final_store.database_time_us)
        if time.monotonic() - self._looked_at > _BREAK_S:
            self._steady_since_us = there_us
        evidence = Evidence(
            self._node_timeout_us,
            self._straggler_wait_us,
            self._votes.drained_us,
            self._steady_since_us,
            nodes_known=self._hosts.drained_us > self._steady_since_us,
        )
        outlook = self._gate.call(lambda db: final_store.settle_finals(db, evidence, there_us))
        self._looked_at = time.monotonic()
        return outlook

    def _remind(self) -> None:
        """Say again which polls are closed: a node that missed the close has not reported its batches."""
        self._metrics.gauge("finals.waiting_s", self._gate.call(final_store.longest_wait_s), everywhere=True)
        waiting = self._gate.call(lambda db: final_store.waiting_for(db, int(_REMIND_EVERY_S * 1_000_000)))
        if not waiting:
            return
        for poll in self._gate.call(lambda db: poll_store.read_snapshots(db, waiting)):
            self._notices.tell_all(StateChanged(NOBODY, poll, poll.state))
        self._metrics.count("finals.reminded", len(waiting))
