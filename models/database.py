"""Transactions on pooled PostgreSQL connections, on which every call has a deadline.

Errors are two families. ``DatabaseUnavailable`` means *come back later*: nothing is wrong with the data and the whole
transaction is safe to repeat. Every other error (``peewee.DataError``, ``IntegrityError``, ...) means *never valid*.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from peewee import PeeweeException, Query
from playhouse.pool import PooledPostgresqlDatabase

from models import pool
from models.pool import UNAVAILABLE_REASONS, DatabaseUnavailable, Pool
from models.runtime import tls
from models.runtime.clock import SharedClock
from models.runtime.settings import DatabaseSettings

__all__ = ["PROBE", "UNAVAILABLE_REASONS", "Database", "DatabaseUnavailable", "Observer", "open_database"]

PROBE = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class Observer(Protocol):
    """Told, in the calling thread, how long things took; also of those that failed."""

    def statement(self, sql: str, took_ms: float) -> None: ...
    def checkout(self, waited_ms: float) -> None:
        """A connection was taken from the pool, opened if need be, or none came free."""


class Database:
    """Transactions on pooled connections. Safe to share between threads; each thread has its own connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.observer: Observer | None = None

    @property
    def peewee_database(self) -> PooledPostgresqlDatabase:
        """For peewee's own tools, such as migrations."""
        return self._pool

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN, then COMMIT, or ROLLBACK on any error. One inside another joins it.

        :raises DatabaseUnavailable: also when no connection came free within ``pool_wait_s``
        """
        if not self._pool.is_closed():
            yield
            return
        self._check_out()
        try:
            self.execute("BEGIN")
            self._pool.demand_writable()
            yield
            self.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._pool.close()  # throws away a connection that is broken or still inside a transaction

    @contextmanager
    def session(self) -> Iterator[None]:
        """One connection without a transaction: each statement commits by itself, and a session's lock stays.

        :raises DatabaseUnavailable:
        """
        self._check_out()
        try:
            yield
        finally:
            self._pool.close()

    def execute(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Run SQL on the transaction's connection and return its cursor.

        :raises peewee.InterfaceError: outside a transaction
        """
        began = time.perf_counter()
        try:
            with self._pool.two_families():
                return self._pool.execute_sql(sql, params)
        finally:
            if self.observer is not None:
                self.observer.statement(sql, (time.perf_counter() - began) * 1000)

    def run(self, query: Query) -> Any:
        """Run a peewee query in the transaction and return what it returns."""
        with self._pool.two_families():
            return query.execute(self._pool)

    def use(self, url: str) -> None:
        """Connect there, or as another account, from now on. Connections that are open stay.

        :raises psycopg2.Error: libpq doesn't understand the address; nothing is changed
        """
        psycopg2.extensions.parse_dsn(url)
        self._pool.database = self._pool.spelled(url)

    def renew(self) -> None:
        """Use no connection any more that is open now: it is not known where they lead."""
        self._pool.renew()

    def demand_writable(self) -> None:
        """In a session: that its server still takes writes, so that what is locked there is locked for the others, too.

        :raises DatabaseUnavailable:
        """
        if self.execute("SHOW transaction_read_only").fetchone()[0] == "on":
            self._pool.renew(self._pool.connection())
            raise DatabaseUnavailable("read_only", "transaction_read_only is on")

    def on_failed_login(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called by the thread that couldn't connect."""
        self._pool.on_failed_login = tell

    def probe(self, clock: SharedClock | None = None) -> float:
        """Milliseconds that a small question took, in a transaction of its own. ``clock`` learns the database's time.

        :raises DatabaseUnavailable:
        """
        started_ns = time.monotonic_ns()
        with self.transaction():
            asked_ns = time.monotonic_ns()
            ((there_us,),) = self.execute(PROBE)
            if clock is not None:
                clock.learn(there_us, asked_ns, time.monotonic_ns())
        return (time.monotonic_ns() - started_ns) / 1e6

    def now_us(self) -> int:
        """By its own clock, inside a transaction: whatever deletes, ends or counts for good goes by it."""
        return int(self.execute(PROBE).fetchone()[0])

    def connections_in_use(self) -> int:
        """For a gauge: near ``pool_size`` means that calls are about to wait for a connection."""
        return len(self._pool._in_use)

    @property
    def pool_size(self) -> int:
        return int(self._pool._max_connections)

    def close(self) -> None:
        """Close every connection, also those in use by other threads."""
        self._pool.close_all()

    def _check_out(self) -> None:
        began = time.perf_counter()
        try:
            with self._pool.two_families():
                self._pool.connect()
        finally:
            if self.observer is not None:
                self.observer.checkout((time.perf_counter() - began) * 1000)

    def _roll_back(self) -> None:
        connection = self._pool.connection()
        if connection.closed:
            return
        try:
            self._pool.execute_sql("ROLLBACK")
        except (PeeweeException, DatabaseUnavailable):
            connection.close()


def open_database(
    settings: DatabaseSettings, application_name: str, *, writable: bool = True, lock_wait_s: float = 0
) -> Database:
    """A database that connects when first used. ``application_name`` shows in pg_stat_activity.

    ``lock_wait_s``: for how long a statement waits for a row that somebody has locked, 0: without an end of its own.
    ``writable`` False: also where nothing can be written, such as on a standby.
    """
    # One callback per process, for every psycopg2 connection in it; the deadline is the connection's own.
    psycopg2.extensions.set_wait_callback(pool.wait)
    psycopg2.extras.register_uuid()
    return Database(Pool(settings, writable=writable, **_connect_options(settings, application_name, lock_wait_s)))


def _connect_options(settings: DatabaseSettings, application_name: str, lock_wait_s: float) -> dict[str, Any]:
    """libpq's parameters. Milliseconds where its names don't say otherwise."""
    deadline_ms = round(settings.call_deadline_s * 1000)
    session = {
        "statement_timeout": round(settings.statement_timeout_s * 1000),
        # A worker that is stopped inside a transaction must not keep a poll's row locked.
        "idle_in_transaction_session_timeout": deadline_ms,
        "lock_timeout": round(lock_wait_s * 1000),
        "timezone": "UTC",
        "jit": "off",  # compiling costs more than any of our statements
    }
    return {
        "application_name": application_name,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "tcp_user_timeout": deadline_ms,
        "keepalives_idle": 5,  # seconds
        "keepalives_interval": 2,
        "keepalives_count": 3,
        **tls.libpq(settings),
    }
