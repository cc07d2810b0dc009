"""Finds rooms left stale: a worker was killed between a commit and its tick, or Redis was emptied."""

import logging
from collections.abc import Sequence

from models import poll_store
from models.runtime.clock import now_us
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.results import ResultsPublisher
from workers.rooms import Rooms

log = logging.getLogger(__name__)

_WINDOW_S = 600  # polls at rest that changed within this
_FIRST_WINDOW_S = 86_400  # after a start or an outage, when publications may have been lost for longer
_GRACE_S = 1.0
_CHUNK_ROOMS = 1000


class Sweep:
    """Compares what Redis has with the database and hands what lags behind to ``results``."""

    def __init__(
        self,
        gate: DatabaseGate,
        rooms: Rooms,
        results: ResultsPublisher,
        metrics: WorkerMetrics,
        every_s: float,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._gate = gate
        self._rooms = rooms
        self._results = results
        self._metrics = metrics
        self._every_s = every_s
        self._grace_s = grace_s
        self._wide = True

    def round(self) -> None:
        """One sweep, unless another worker has just made one.

        :raises DatabaseUnavailable, redis.RedisError: the next round sweeps wide
        """
        wide, self._wide = self._wide, True
        # Shorter than the interval, so that one worker alone has each of its turns. A wide sweep waits for nobody.
        if not self._rooms.take_turn("sweep", self._every_s * 0.8) and not wide:
            self._wide = False
            return
        window_s = _FIRST_WINDOW_S if wide else _WINDOW_S
        recent = self._gate.call(lambda db: poll_store.recent_versions(db, now_us() - window_s * 1_000_000))
        stale: list[int] = []
        for start in range(0, len(recent), _CHUNK_ROOMS):
            stale += self._stale(recent[start : start + _CHUNK_ROOMS])
        self._wide = False
        if stale:
            self._metrics.count("sweep.found", len(stale))
            log.info("sweep_found_stale", extra={"polls": len(stale)})
            self._results.mark(stale)

    def _stale(self, recent: Sequence[tuple[int, str, int]]) -> list[int]:
        versions = self._rooms.versions([code for _, code, _ in recent])
        # A version is the time of the change: what is younger than this is about to be published anyway.
        settled_us = now_us() - int(self._grace_s * 1_000_000)
        return [
            poll_id
            for (poll_id, _, version), published in zip(recent, versions, strict=True)
            if version < settled_us and (published is None or published < version)
        ]
