"""Tells the nodes that this worker lives and what it knows of the database, also while the database hangs."""

import threading
import time
from pathlib import Path

import redis

from models.runtime.clock import clock, now_us
from models.runtime.live_settings import LiveSettings
from models.runtime.version import VERSION
from models.wire.notices import WorkerHeartbeat
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.results import ResultsPublisher
from workers.rooms import Rooms

PROBE_EVERY_S = 1.0
_HANGS_AFTER_S = 2.0


class Probe:
    """Asks the database on a thread of its own and remembers the answer."""

    def __init__(self, gate: DatabaseGate, metrics: WorkerMetrics) -> None:
        self._gate = gate
        self._metrics = metrics
        self._asked_at: float | None = None
        self.database_ms = 0.0

    def round(self) -> None:
        """:raises DatabaseUnavailable: the breaker has counted it"""
        self._asked_at = time.monotonic()
        try:
            self.database_ms = self._gate.call(lambda db: db.probe(clock))
        finally:
            self._asked_at = None
        self._metrics.timing_ms("database.probe_ms", self.database_ms)

    def database(self) -> str:
        """``connected`` or ``disconnected``. A question that stays unanswered opens the breaker at once."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > _HANGS_AFTER_S:
            self._gate.hangs(f"a probe has had no answer for {_HANGS_AFTER_S:g} s")
        return "connected" if self._gate.available else "disconnected"


class Waits:
    """The longest that a command has waited for this worker. From any thread."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._lock = threading.Lock()

    def note(self, waited_s: float) -> None:
        with self._lock:
            self._longest_s = max(self._longest_s, waited_s)

    def take(self) -> float:
        """Since the last time."""
        with self._lock:
            longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


class Heartbeat:
    """One WorkerHeartbeat to all nodes per round; ``file``, unless empty, is touched for a health check to look at."""

    def __init__(
        self,
        worker: str,
        queues: tuple[str, ...],
        probe: Probe,
        rooms: Rooms,
        results: ResultsPublisher,
        notices: Notices,
        live: LiveSettings,
        waits: Waits,
        file: str,
    ) -> None:
        self._worker = worker
        self._queues = queues
        self._probe = probe
        self._rooms = rooms
        self._results = results
        self._notices = notices
        self._live = live
        self._waits = waits
        self._cpu_s, self._told_at = time.process_time(), time.monotonic()
        self._file = Path(file) if file else None

    def round(self) -> None:
        database = self._probe.database()
        cache = "connected" if self._redis_answers() else "disconnected"
        cpu_s, now = time.process_time(), time.monotonic()
        cpu_share = (cpu_s - self._cpu_s) / (now - self._told_at)
        self._cpu_s, self._told_at = cpu_s, now
        self._notices.tell_all(
            WorkerHeartbeat(
                self._worker,
                now_us(),
                self._queues,
                database,
                self._probe.database_ms,
                cache,
                self._waits.take(),
                cpu_share,
                VERSION,
                -1 if (error_us := clock.error_us()) is None else error_us,
            )
        )
        if self._file is not None:
            self._file.touch()

    def _redis_answers(self) -> bool:
        try:
            self._live.take_over(self._rooms.changed_settings())
        except redis.RedisError:
            return False
        finally:
            self._live.hold_levels(now_us())
        return self._results.redis_ok
