"""Background rounds."""

import logging
import random
import threading
from collections.abc import Callable

import redis

from models.database import DatabaseUnavailable
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)


class Periodic:
    """Calls ``round_`` about every ``every_s`` seconds on a thread of its own, whatever it raises."""

    def __init__(self, name: str, every_s: float, round_: Callable[[], object], metrics: WorkerMetrics) -> None:
        self._every_s = every_s
        self._round = round_
        self._metrics = metrics
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 2) -> None:
        """Stop after the current round; a daemon thread that hangs in one doesn't hold up the exit."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        # Jittered, so that many workers started together don't stay together.
        while not self._closing.wait(self._every_s * random.uniform(0.9, 1.1)):
            try:
                self._round()
            except (DatabaseUnavailable, redis.RedisError):
                pass  # known, counted and logged by those who keep their state; the next round tries again
            except Exception:
                self._metrics.count("periodic.failed")
                log.exception("periodic_failed", extra={"round": self._thread.name})
