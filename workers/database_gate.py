"""The only way to the database in this process: through the breaker, counted."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from models.database import Database, DatabaseUnavailable
from workers import delivery
from workers.breaker import Breaker
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

BREAKER_OPEN = "breaker"  # the reason of a refusal without asking the server

# Says something about this call only, not about the server.
_NOT_THE_SERVER = ("conflict", "pool_wait")


class DatabaseGate:
    """Runs calls while the database answers; refuses them at once while it is known to be away."""

    def __init__(self, database: Database, metrics: WorkerMetrics, breaker: Breaker | None = None) -> None:
        self._database = database
        self._metrics = metrics
        self.breaker = breaker or Breaker(on_change=self._changed)

    @property
    def available(self) -> bool:
        return self.breaker.state == "closed"

    @property
    def connections_in_use(self) -> int:
        return self._database.connections_in_use()

    def call(self, work: Callable[[Database], T]) -> T:
        """Run ``work`` once.

        :raises DatabaseUnavailable: come back later; safe to repeat. At once while the breaker is open
        """
        if not self.breaker.admit():
            self._metrics.count("database.refused")
            raise DatabaseUnavailable(BREAKER_OPEN, "the database was away a moment ago")
        started = time.monotonic()
        try:
            result = work(self._database)
        except DatabaseUnavailable as error:
            self._metrics.count("database.unavailable")
            if error.reason in _NOT_THE_SERVER:
                self.breaker.undecided()
            else:
                self.breaker.failed()
            raise
        except BaseException:
            # The server may well have answered, with a refusal of what it was given; or this thread was interrupted.
            self.breaker.undecided()
            raise
        self.breaker.succeeded()
        delivery.current().database_s += time.monotonic() - started
        return result

    def close(self) -> None:
        self._database.close()

    def _changed(self, state: str) -> None:
        if state == "open":
            self._metrics.count("database.breaker_opened")
        log.warning("database_breaker", extra={"state": state})
