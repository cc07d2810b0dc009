"""Connections to PostgreSQL: none waits for ever, none that leads to the wrong server is used again.

The wrong server, for whoever writes, is one in recovery or read-only: a standby before its promotion, or a primary that
was set aside. Such a connection isn't taken, and one that becomes such is thrown away, together with all that are open
then, since they lead to the same place; new ones resolve the address anew.
"""

from __future__ import annotations

import heapq
import math
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg2
import psycopg2.extensions
from peewee import PeeweeException
from playhouse.pool import MaxConnectionsExceeded, PoolConnection, PooledPostgresqlDatabase

from models.runtime import tls
from models.runtime.correlation import traceparent
from models.runtime.settings import DatabaseSettings

UNAVAILABLE_REASONS = (
    "connection_lost", "deadline", "overtaken", "read_only", "pool_wait", "statement_timeout", "conflict", "locked",
    "refused", "schema",
)  # fmt: skip

# After these, no connection that is open is used again.
_LEADS_NOWHERE = ("connection_lost", "deadline", "read_only")


class DatabaseUnavailable(Exception):
    """The database can't answer now; the same call may succeed later.

    ``reason`` is one of ``UNAVAILABLE_REASONS``, ``text`` what the server or libpq says; both are for logs. A call that
    failed while committing may have taken effect all the same, so whatever is repeated must be idempotent.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


# SQLSTATE, or its first two characters, of errors that say nothing about the data that was sent.
_COME_BACK_LATER = {
    "08": "connection_lost",
    "28": "refused",  # authentication; also while credentials are being rotated
    "3D": "refused",  # no such database
    "40": "conflict",  # deadlock, serialization failure
    "53": "refused",  # out of memory, disk or connections
    "55P03": "locked",  # somebody has kept a row for longer than lock_timeout
    "57": "connection_lost",  # shutting down, starting up, terminated
    "57014": "statement_timeout",
    "58": "refused",  # I/O error on the server
    "25006": "read_only",  # a standby, or a primary set aside: a failover is under way
    "25P03": "connection_lost",  # this process slept inside a transaction
    # The tables aren't there yet, or not as this version needs them: a deployment's fault must never void a vote.
    "3F000": "schema",
    "42501": "schema",
    "42P01": "schema",
    "42703": "schema",
    "42883": "schema",
}

# What libpq says, in English alone, of servers that don't take writes.
_READ_ONLY_TEXTS = ("session is read-only", "server is in hot standby mode")

# By what name PostgreSQL, since version 14, reports in every answer that a session can't write.
_READ_ONLY_SIGNS = ("in_hot_standby", "default_transaction_read_only")

# A URL that asks for something else says so itself.
_WRITABLE = "target_session_attrs=read-write"

_EVENTS = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
_LOOK_EVERY_S = 0.5
_OVERTAKEN_AFTER_S = 2.0  # a call that waits for a row may wait for so long in any case
_LONGEST_LIFE_S = 600.0  # of a connection: however quietly the address has moved, it is followed by then
_LONGEST_TEXT = 500
_PORT = "5432"


class Connection(psycopg2.extensions.connection):
    """Knows how long one wait for the server may take, in seconds, and what ``Pool`` has to know of it."""

    deadline_s = 30.0
    generation = math.inf  # while it connects
    pool: Pool


def wait(connection: Connection) -> None:
    """Drive one psycopg2 call, giving up at the connection's deadline; psycopg2 then closes the connection.

    Waiting inside libpq can't be ended from outside: neither statement_timeout nor keepalives help against a server
    that is stopped while the kernel still acknowledges its packets.
    """
    pool: Pool | None = getattr(connection, "pool", None)  # there are others in this process
    began = time.monotonic()
    deadline = began + getattr(connection, "deadline_s", Connection.deadline_s)
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        now = time.monotonic()
        if now >= deadline:
            where = connection.info.host, str(connection.info.port)
            if pool is not None and connection.generation == math.inf:  # it logs in
                pool.silent = where
            raise DatabaseUnavailable("deadline", f"no answer from {':'.join(where)} within the client's deadline")
        if now - began > _OVERTAKEN_AFTER_S and pool is not None and pool.is_overtaken(connection):
            raise DatabaseUnavailable("overtaken", "no answer, while newer connections get one")
        # A poller per round, since libpq goes on to another socket when it tries the next address.
        poller = select.poll()
        poller.register(connection.fileno(), _EVENTS[state])
        poller.poll(min(deadline - now, _LOOK_EVERY_S) * 1000)


class Pool(PooledPostgresqlDatabase):
    """Peewee's pool, made for servers that hang or change places.

    Peewee connects, and pings at every checkout, while holding locks: with a hung server its threads would wait one
    after another. Here connecting happens outside the locks and a checkout costs no round trip.

    ``writable``: only to a server that takes writes; of several hosts in the URL, the one that does.
    """

    def __init__(self, settings: DatabaseSettings, *, writable: bool, **connect: Any) -> None:
        # The deadline of connecting, including the authentication; set to that of calls afterwards.
        connecting = type("_Connecting", (Connection,), {"deadline_s": settings.connect_timeout_s, "pool": self})
        self._writable = writable
        super().__init__(
            self.spelled(settings.url),
            max_connections=settings.pool_size,
            timeout=settings.pool_wait_s,
            connection_factory=connecting,
            autoconnect=False,  # SQL outside a transaction would keep its connection for ever
            **connect,
        )
        self._lock = nullcontext()  # guards only state that is kept per thread
        self._connecting = 0
        self._generation = 0
        self._newest_answered = 0
        self.silent: tuple[str, str] | None = None  # the host and port that a login has waited for in vain
        self.on_failed_login: Callable[[], None] = lambda: None
        self._call_deadline_s = settings.call_deadline_s

    def spelled(self, url: str) -> str:
        """As peewee takes it, and libpq finds a server that takes writes."""
        url = url.replace("postgres://", "postgresql://", 1)
        if self._writable:
            # A primary that was set aside takes no writes, and libpq would look no further.
            url = url.replace("target_session_attrs=primary", _WRITABLE)
        if not self._writable or "target_session_attrs=" in url:
            return url
        return f"{url}{'&' if '?' in url else '?'}{_WRITABLE}"

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """With a comment, in the form of sqlcommenter, that shows in pg_stat_activity and in PostgreSQL's log."""
        trace = traceparent()
        return super().execute_sql(f"/*traceparent='{trace}'*/ {sql.lstrip()}" if trace else sql, params)

    def renew(self, failed: Connection | None = None) -> None:
        """Never again hand out a connection that is open now; those in use end with what they are doing.

        ``failed``: why; nothing happens when it is older than the last time, since newer ones may well be good.
        """
        with self._pool_lock:
            if failed is not None and failed.generation < self._generation:
                return
            self._generation += 1
            self.close_idle()

    def is_overtaken(self, connection: Connection) -> bool:
        """Whether it is to be used no more, and the address leads to a server that answers others."""
        return connection.generation < self._newest_answered

    def demand_writable(self) -> None:
        """Costs nothing: a server that turns read-only says so with its next answer.

        :raises DatabaseUnavailable: this thread's connection is of no use any more
        """
        connection = self.connection()
        sign = next((sign for sign in _READ_ONLY_SIGNS if connection.get_parameter_status(sign) == "on"), None)
        if self._writable and sign:
            self.renew(connection)
            raise DatabaseUnavailable("read_only", f"{sign} is on")

    @contextmanager
    def two_families(self) -> Iterator[None]:
        """Turn errors that say nothing about the data into ``DatabaseUnavailable``; after some of them, renew."""
        try:
            yield
        except MaxConnectionsExceeded as error:
            raise DatabaseUnavailable("pool_wait", "no connection came free in time") from error
        except DatabaseUnavailable as error:
            self._renew_after(error)
            raise
        except (PeeweeException, psycopg2.Error) as error:
            cause = getattr(error, "orig", error)  # peewee keeps the driver's error, which has the SQLSTATE
            reason = _come_back_reason(cause)
            if reason is None:
                raise
            unavailable = DatabaseUnavailable(reason, tls.explained("database", _said(cause)))
            self._renew_after(unavailable)
            raise unavailable from error

    def _renew_after(self, error: DatabaseUnavailable) -> None:
        # Without a connection nothing is said about those that are open: perhaps no more are let in.
        if error.reason in _LEADS_NOWHERE and not self.is_closed():
            self.renew(self.connection())

    def _connect(self) -> Connection:
        with self._pool_lock:
            if (idle := self._take_idle()) is not None:
                return idle
            if len(self._in_use) + self._connecting >= self._max_connections:
                raise MaxConnectionsExceeded("every connection is in use")
            self._connecting += 1
            generation = self._generation
        connection = None
        try:
            connection = self._log_in()
            connection.deadline_s = self._call_deadline_s
            connection.generation = generation
            return connection
        finally:
            with self._pool_lock:
                self._connecting -= 1
                if connection is not None:
                    self._newest_answered = max(self._newest_answered, generation)
                    self._track(connection, time.monotonic())
                else:
                    self._pool_available.notify()
            if connection is None:
                # The server's reason is in its own language, so it may be another one, too.
                self.on_failed_login()

    def _log_in(self) -> Connection:
        hosts = _beginning_after(self.silent, self.database)
        connection: Connection = self._adapter.connect(self, **self.connect_params, **hosts)
        connection.autocommit = True
        return connection

    def _take_idle(self) -> Connection | None:
        while self._connections:
            opened_at, _, connection = heapq.heappop(self._connections)
            if time.monotonic() - opened_at < _LONGEST_LIFE_S and not self._is_closed(connection):
                self._track(connection, opened_at)
                return connection
            self._close_raw(connection)
        return None

    def _track(self, connection: Connection, opened_at: float) -> None:
        self._in_use[self.conn_key(connection)] = PoolConnection(opened_at, connection, time.time())

    def _is_closed(self, connection: Connection) -> bool:
        """Closed here or by the server. A server says goodbye on an idle connection, which makes it readable."""
        if connection.closed:
            return True
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _can_reuse(self, connection: Connection) -> bool:
        return (
            not connection.closed
            and connection.generation == self._generation
            and connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        )


def _beginning_after(silent: tuple[str, str] | None, url: str) -> dict[str, str]:
    """The hosts of a URL that names several, beginning with the one after the host that was silent last: libpq goes on
    to the next after a refusal, and would use up each login's time waiting for the first."""
    named = psycopg2.extensions.parse_dsn(url)
    lists = {key: named[key].split(",") for key in ("host", "hostaddr", "port") if "," in named.get(key, "")}
    hosts = lists.get("host") or lists.get("hostaddr") or []
    ports = [port or _PORT for port in lists.get("port") or [named.get("port", _PORT)] * len(hosts)]
    places = list(zip(hosts, ports, strict=True))
    if silent not in places:
        return {}
    first = places.index(silent) + 1
    return {key: ",".join(values[first:] + values[:first]) for key, values in lists.items()}


def _come_back_reason(error: BaseException) -> str | None:
    code = getattr(error, "pgcode", None)
    if code is not None:
        return _COME_BACK_LATER.get(code) or _COME_BACK_LATER.get(code[:2])
    # Without a SQLSTATE the server said nothing: refused, unreachable, or gone in the middle of a call. libpq reports
    # the last one as a plain DatabaseError now and then.
    if isinstance(error, psycopg2.OperationalError) or type(error) is psycopg2.DatabaseError:
        return "read_only" if any(text in str(error) for text in _READ_ONLY_TEXTS) else "connection_lost"
    return "connection_lost" if "connection already closed" in str(error) else None


def _said(error: BaseException) -> str:
    """In the server's words, or libpq's, on one line; without the statement, whose values are nobody's business."""
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    return "; ".join(line.strip() for line in said.splitlines() if line.strip())[:_LONGEST_TEXT]
