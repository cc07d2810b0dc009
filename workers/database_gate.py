"""The only way to the database in this process: through the breaker, counted."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from peewee import PeeweeException

from models.database import Database, DatabaseUnavailable
from models.runtime.clock import clock
from models.statements import StatementNames
from workers import delivery
from workers.breaker import Breaker
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

BREAKER_OPEN = "breaker"  # the reason of a refusal without asking the server

# Says something about this call only, not about the server.
_NOT_THE_SERVER = ("conflict", "locked", "overtaken", "pool_wait")

_TIME_OUTS = ("deadline", "overtaken", "pool_wait", "statement_timeout")


class DatabaseTimes:
    """How long statements and waits for a connection take, into the metrics."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._names = StatementNames()

    def statement(self, sql: str, took_ms: float) -> None:
        self._metrics.timing_ms(f"database.statements.{self._names[sql]}", took_ms)

    def checkout(self, waited_ms: float) -> None:
        self._metrics.timing_ms("database.pool_wait_ms", waited_ms)


class DatabaseGate:
    """Runs calls while the database answers; refuses them at once while it is known to be away."""

    def __init__(self, database: Database, metrics: WorkerMetrics, breaker: Breaker | None = None) -> None:
        self._database = database
        self._database.observer = DatabaseTimes(metrics)
        self._metrics = metrics
        self.breaker = breaker or Breaker(on_change=self._changed)

    @property
    def available(self) -> bool:
        return self.breaker.state == "closed"

    def levels(self) -> dict[str, float]:
        """Gauges."""
        in_use = self._database.connections_in_use()
        return {
            "database.breaker_open": float(not self.available),
            "database.connections": in_use,
            "database.pool_share": in_use / self._database.pool_size,
        }

    def call(self, work: Callable[[Database], T]) -> T:
        """Run ``work`` once; never before this process has the database's time, which ``work`` may write.

        :raises DatabaseUnavailable: come back later; safe to repeat. At once while the breaker is open
        """
        if not self.breaker.admit():
            self._metrics.count("database.refused")
            raise DatabaseUnavailable(BREAKER_OPEN, "the database was away a moment ago")
        started = time.monotonic()
        try:
            if clock.error_us() is None:
                self._database.probe(clock)
            result = work(self._database)
        except DatabaseUnavailable as error:
            self._metrics.count(f"database.unavailable.{error.reason}")
            self._metrics.count(f"errors.database.{'timeout' if error.reason in _TIME_OUTS else 'server'}")
            if error.reason in _NOT_THE_SERVER:
                self.breaker.undecided()
            else:
                self.breaker.failed(error.reason, error.text)
            raise
        except BaseException as error:
            if isinstance(error, PeeweeException):
                self._metrics.count("errors.database.client")
            # The server may well have answered, with a refusal of what it was given; or this thread was interrupted.
            self.breaker.undecided()
            raise
        self.breaker.succeeded()
        delivery.current().database_s += time.monotonic() - started
        return result

    def hangs(self, text: str) -> None:
        """Somebody has seen that calls get no answer. The next ones go by new connections, and once one of those gets
        through, the calls that still hang are given up."""
        if self.breaker.trip("deadline", text):
            self._database.renew()

    def close(self) -> None:
        self._database.close()

    def _changed(self, state: str, reason: str, text: str) -> None:
        """One line for each change; ``text`` is what the server or libpq says, which names no password."""
        if state == "open":
            self._metrics.count("database.breaker_opened")
        why = {"reason": reason, "text": text} if reason else {}
        log.warning("database_breaker", extra={"state": state} | why)
