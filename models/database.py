"""A pool of PostgreSQL connections on which every call has a deadline.

Errors are two families. ``DatabaseUnavailable`` means *come back later*: nothing is wrong with the data and the whole
transaction is safe to repeat. Every other error (``peewee.DataError``, ``IntegrityError``, ...) means *never valid*.
"""

import heapq
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from peewee import PeeweeException, PostgresqlDatabase, Query
from playhouse.pool import MaxConnectionsExceeded, PoolConnection, PooledPostgresqlDatabase

from models.runtime import tls
from models.runtime.correlation import traceparent
from models.runtime.settings import DatabaseSettings

UNAVAILABLE_REASONS = ("connection_lost", "deadline", "pool_wait", "statement_timeout", "conflict", "refused", "schema")

PROBE = "SELECT extract(epoch FROM clock_timestamp())::float8"


class DatabaseUnavailable(Exception):
    """The database can't answer now; the same call may succeed later.

    ``reason`` is one of ``UNAVAILABLE_REASONS``, for logs and metrics. A call that failed while committing may have
    taken effect all the same, so whatever is repeated must be idempotent.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


# SQLSTATE, or its first two characters, of errors that say nothing about the data that was sent.
_COME_BACK_LATER = {
    "08": "connection_lost",
    "28": "refused",  # authentication; also while credentials are being rotated
    "3D": "refused",  # no such database
    "40": "conflict",  # deadlock, serialization failure
    "53": "refused",  # out of memory, disk or connections
    "55P03": "conflict",  # lock timeout
    "57": "connection_lost",  # shutting down, starting up, terminated
    "57014": "statement_timeout",
    "58": "refused",  # I/O error on the server
    "25006": "refused",  # a standby: a failover is under way
    "25P03": "connection_lost",  # this process slept inside a transaction
    # The tables aren't there yet, or not as this version needs them: a deployment's fault must never void a vote.
    "3F000": "schema",
    "42501": "schema",
    "42P01": "schema",
    "42703": "schema",
    "42883": "schema",
}


_EVENTS = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}


class _Connection(psycopg2.extensions.connection):
    """A connection that knows how long one wait for the server may take, in seconds."""

    deadline_s = 30.0


def _wait(connection: psycopg2.extensions.connection) -> None:
    """Drive one psycopg2 call, giving up at the connection's deadline; psycopg2 then closes the connection.

    Waiting inside libpq can't be ended from outside: neither statement_timeout nor keepalives help against a server
    that is stopped while the kernel still acknowledges its packets.
    """
    deadline = time.monotonic() + getattr(connection, "deadline_s", _Connection.deadline_s)
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DatabaseUnavailable("deadline", "no answer from the server within the client's deadline")
        # A poller per round, since libpq goes on to another socket when it tries the next address.
        poller = select.poll()
        poller.register(connection.fileno(), _EVENTS[state])
        poller.poll(left_s * 1000)


class _Pool(PooledPostgresqlDatabase):
    """Peewee's pool, made for servers that hang.

    Peewee connects, and pings at every checkout, while holding locks: with a hung server its threads would wait one
    after another. Here connecting happens outside the locks and a checkout costs no round trip.
    """

    def __init__(self, settings: DatabaseSettings, **connect: Any) -> None:
        # The deadline of connecting, including the authentication; set to that of calls afterwards.
        connecting = type("_Connecting", (_Connection,), {"deadline_s": settings.connect_timeout_s})
        super().__init__(
            _spelled(settings.url),
            max_connections=settings.pool_size,
            timeout=settings.pool_wait_s,
            connection_factory=connecting,
            autoconnect=False,  # SQL outside a transaction would keep its connection for ever
            **connect,
        )
        self._lock = nullcontext()  # guards only state that is kept per thread
        self._connecting = 0
        self.on_failed_login: Callable[[], None] = lambda: None
        self._call_deadline_s = settings.call_deadline_s

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """With a comment, in the form of sqlcommenter, that shows in pg_stat_activity and in PostgreSQL's log."""
        trace = traceparent()
        return super().execute_sql(f"/*traceparent='{trace}'*/ {sql.lstrip()}" if trace else sql, params)

    def _connect(self) -> psycopg2.extensions.connection:
        with self._pool_lock:
            if (idle := self._take_idle()) is not None:
                return idle
            if len(self._in_use) + self._connecting >= self._max_connections:
                raise MaxConnectionsExceeded("every connection is in use")
            self._connecting += 1
        connection = None
        try:
            connection = PostgresqlDatabase._connect(self)  # type: ignore[attr-defined]
            connection.deadline_s = self._call_deadline_s
            return connection
        finally:
            with self._pool_lock:
                self._connecting -= 1
                if connection is not None:
                    self._track(connection, time.time())
                else:
                    self._pool_available.notify()
            if connection is None:
                # The server's reason is in its own language, so it may be another one, too.
                self.on_failed_login()

    def _take_idle(self) -> psycopg2.extensions.connection | None:
        while self._connections:
            opened_at, _, connection = heapq.heappop(self._connections)
            if not self._is_closed(connection):
                self._track(connection, opened_at)
                return connection
            self._close_raw(connection)
        return None

    def _track(self, connection: psycopg2.extensions.connection, opened_at: float) -> None:
        self._in_use[self.conn_key(connection)] = PoolConnection(opened_at, connection, time.time())

    def _is_closed(self, connection: psycopg2.extensions.connection) -> bool:
        """Closed here or by the server. A server says goodbye on an idle connection, which makes it readable."""
        if connection.closed:
            return True
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _can_reuse(self, connection: psycopg2.extensions.connection) -> bool:
        return (
            not connection.closed and connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        )


class Observer(Protocol):
    """Told, in the calling thread, how long things took; also of those that failed."""

    def statement(self, sql: str, took_ms: float) -> None: ...
    def checkout(self, waited_ms: float) -> None:
        """A connection was taken from the pool, opened if need be, or none came free."""


class Database:
    """Transactions on pooled connections. Safe to share between threads; each thread has its own connection."""

    def __init__(self, pool: _Pool) -> None:
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
            with _two_families():
                return self._pool.execute_sql(sql, params)
        finally:
            if self.observer is not None:
                self.observer.statement(sql, (time.perf_counter() - began) * 1000)

    def run(self, query: Query) -> Any:
        """Run a peewee query in the transaction and return what it returns."""
        with _two_families():
            return query.execute(self._pool)

    def use(self, url: str) -> None:
        """Connect there, or as another account, from now on. Connections that are open stay.

        :raises psycopg2.Error: libpq doesn't understand the address; nothing is changed
        """
        psycopg2.extensions.parse_dsn(url)
        self._pool.database = _spelled(url)

    def on_failed_login(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called by the thread that couldn't connect."""
        self._pool.on_failed_login = tell

    def probe(self) -> tuple[float, float]:
        """Milliseconds that a small question took, in a transaction of its own, and by how many milliseconds this
        machine's clock is ahead of the database's, give or take the first.

        :raises DatabaseUnavailable:
        """
        started, asked_at = time.monotonic(), time.time()
        with self.transaction():
            ((there,),) = self.execute(PROBE)
        took_s = time.monotonic() - started
        return took_s * 1000, (asked_at + took_s / 2 - there) * 1000

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
            with _two_families():
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


def open_database(settings: DatabaseSettings, application_name: str) -> Database:
    """A database that connects when first used. ``application_name`` shows in pg_stat_activity."""
    # One callback per process, for every psycopg2 connection in it; the deadline is the connection's own.
    psycopg2.extensions.set_wait_callback(_wait)
    psycopg2.extras.register_uuid()
    return Database(_Pool(settings, **_connect_options(settings, application_name)))


def _spelled(url: str) -> str:
    """The only spelling that peewee takes for a connection string."""
    return url.replace("postgres://", "postgresql://", 1)


def _connect_options(settings: DatabaseSettings, application_name: str) -> dict[str, Any]:
    """libpq's parameters. Milliseconds where its names don't say otherwise."""
    deadline_ms = round(settings.call_deadline_s * 1000)
    session = {
        "statement_timeout": round(settings.statement_timeout_s * 1000),
        # A worker that is stopped inside a transaction must not keep a poll's row locked.
        "idle_in_transaction_session_timeout": deadline_ms,
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


@contextmanager
def _two_families() -> Iterator[None]:
    """Turn errors that say nothing about the data into ``DatabaseUnavailable``."""
    try:
        yield
    except MaxConnectionsExceeded as error:
        raise DatabaseUnavailable("pool_wait", "no connection came free in time") from error
    except (PeeweeException, psycopg2.Error) as error:
        cause = getattr(error, "orig", error)  # peewee keeps the driver's error, which has the SQLSTATE
        reason = _come_back_reason(cause)
        if reason is None:
            raise
        raise DatabaseUnavailable(reason, tls.explained("database", str(cause).strip())) from error


def _come_back_reason(error: BaseException) -> str | None:
    code = getattr(error, "pgcode", None)
    if code is not None:
        return _COME_BACK_LATER.get(code) or _COME_BACK_LATER.get(code[:2])
    # Without a SQLSTATE the server said nothing: refused, unreachable, or gone in the middle of a call. libpq reports
    # the last one as a plain DatabaseError now and then.
    if isinstance(error, psycopg2.OperationalError) or type(error) is psycopg2.DatabaseError:
        return "connection_lost"
    return "connection_lost" if "connection already closed" in str(error) else None
