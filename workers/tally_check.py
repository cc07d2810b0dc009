"""Counts a few polls' votes again and again: whether tallies equal votes shows before somebody asks."""

import logging
import time

from models.recount import Mismatch, Place, count_some
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.rooms import Rooms

log = logging.getLogger(__name__)

_POLLS = 20
_VOTES = 100_000  # of them, after which a round looks at no further poll
_SHARE = 0.02  # of the time, at most, that one worker of all spends on it


class TallyCheck:
    """``round()`` looks at the polls behind those of the last one, newest first, and again at those that were wrong.

    A lease in Redis leaves it to one host worker; when that one ends, another begins with the newest polls.
    """

    EVERY_S = 10.0

    def __init__(self, gate: DatabaseGate, rooms: Rooms, metrics: WorkerMetrics, worker: str) -> None:
        self._gate = gate
        self._rooms = rooms
        self._metrics = metrics
        self._worker = worker
        self._before: Place | None = None  # the poll that comes next is older than this one
        self._wrong: set[int] = set()
        self._rests_until = 0.0

    def round(self) -> None:
        """:raises DatabaseUnavailable, redis.RedisError:"""
        if time.monotonic() >= self._rests_until and self._rooms.lead("tally-check", self._worker, 3 * self.EVERY_S):
            self.look()

    def look(self) -> None:
        """:raises DatabaseUnavailable:"""
        began = time.monotonic()
        checked = self._gate.call(lambda db: count_some(db, self._before, sorted(self._wrong), _POLLS, _VOTES))
        took_s = time.monotonic() - began
        self._rests_until = time.monotonic() + took_s / _SHARE
        self._before = checked.oldest
        self._metrics.timing_ms("tallies.check_ms", took_s * 1000)
        self._metrics.count("tallies.checked", checked.polls)
        self._metrics.count("tallies.wrong", len(checked.mismatches))
        for mismatch in checked.mismatches:
            if mismatch.poll_id not in self._wrong:
                self._tell(mismatch)
        self._wrong = {mismatch.poll_id for mismatch in checked.mismatches}

    def _tell(self, mismatch: Mismatch) -> None:
        about = {"room_code": mismatch.room_code, "tally": str(mismatch.tally), "counted": str(mismatch.counted)}
        log.error("tally_wrong", extra=about)
