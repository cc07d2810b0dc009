"""The pool: every call ends by its deadline, no dead connection survives, two families of errors."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import msgspec
import peewee
import psycopg2
import pytest

from models.database import Database, DatabaseUnavailable, open_database
from models.runtime.settings import DatabaseSettings
from tests.models.conftest import admin
from tests.models.stalling_proxy import StallingProxy

SOON_S = 3.0  # far above the deadlines below, far below any of the server's own


@contextmanager
def opened(settings: DatabaseSettings, **changes: object) -> Iterator[Database]:
    database = open_database(msgspec.structs.replace(settings, **changes), "votemill-tests")
    try:
        yield database
    finally:
        database.close()


def at_port(settings: DatabaseSettings, port: int) -> DatabaseSettings:
    parts = urlsplit(settings.url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return msgspec.structs.replace(settings, url=urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}")))


@contextmanager
def unavailable_within(seconds: float, reason: str) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as caught:
        yield
    assert caught.value.reason == reason
    assert time.monotonic() - started < seconds


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def proxy(settings: DatabaseSettings) -> Iterator[StallingProxy]:
    parts = urlsplit(settings.url)
    with StallingProxy(parts.hostname or "127.0.0.1", parts.port or 5432) as running:
        yield running


@pytest.fixture
def proxy_to_the_same(settings: DatabaseSettings) -> Iterator[StallingProxy]:
    """Another address of the server."""
    parts = urlsplit(settings.url)
    with StallingProxy(parts.hostname or "127.0.0.1", parts.port or 5432) as running:
        yield running


@pytest.mark.proves("FR-037", "US6.1")
def test_a_server_that_accepts_and_never_answers_is_given_up_at_the_deadline(settings, silent_server):
    with (
        opened(at_port(settings, silent_server), connect_timeout_s=0.3) as database,
        unavailable_within(SOON_S, "deadline"),
    ):
        database.probe()


@pytest.mark.proves("FR-037")
def test_threads_give_up_connecting_side_by_side_and_not_one_after_another(settings, silent_server):
    results: list[str] = []

    def connect(database: Database) -> None:
        try:
            database.probe()
        except DatabaseUnavailable as error:
            results.append(error.reason)

    with opened(at_port(settings, silent_server), connect_timeout_s=2, pool_size=8) as database:
        started = time.monotonic()
        threads = [threading.Thread(target=connect, args=(database,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == ["deadline"] * 8
        # One after another they would take 16 s.
        assert time.monotonic() - started < 10


@pytest.mark.proves("FR-037", "US6.1")
def test_a_server_that_hangs_in_mid_answer_is_given_up_and_used_again_when_it_returns(settings, proxy):
    with opened(at_port(settings, proxy.port), call_deadline_s=0.3) as database:
        with unavailable_within(SOON_S, "deadline"), database.transaction():
            database.execute("SELECT 1")
            proxy.stall()
            database.execute("SELECT 2")
        assert database.connections_in_use() == 0
        proxy.resume()
        assert database.probe() > 0


@pytest.mark.proves("FR-037")
def test_a_server_that_hangs_at_the_commit_is_given_up(settings, proxy):
    with opened(at_port(settings, proxy.port), call_deadline_s=0.3) as database:
        with unavailable_within(SOON_S, "deadline"), database.transaction():
            database.execute("SELECT 1")
            proxy.stall()
        proxy.resume()
        assert database.probe() > 0


def test_a_refused_connection_is_unavailable(settings):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with opened(at_port(settings, port)) as database, unavailable_within(SOON_S, "connection_lost"):
        database.probe()


@pytest.mark.proves("E1", "FR-033", "FR-037")
def test_a_call_waits_for_a_free_connection_and_then_gives_up(settings):
    with opened(settings, pool_size=1, pool_wait_s=0.3) as database:
        holding, release = threading.Event(), threading.Event()

        def hold() -> None:
            with database.transaction():
                holding.set()
                release.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        assert holding.wait(10)
        assert database.connections_in_use() == 1
        with unavailable_within(SOON_S, "pool_wait"):
            database.probe()
        release.set()
        holder.join(10)
        assert database.probe() > 0


@pytest.mark.proves("E1", "FR-033")
def test_a_call_gets_the_connection_that_comes_free_while_it_waits(settings):
    with opened(settings, pool_size=1, pool_wait_s=10) as database:
        waited: list[float] = []
        with database.transaction():
            waiter = threading.Thread(target=lambda: waited.append(database.probe()))
            waiter.start()
            assert not waited
        waiter.join(10)
        assert len(waited) == 1


@pytest.mark.proves("FR-033")
def test_connections_are_used_again(settings):
    with opened(settings) as database:
        assert len({backend(database) for _ in range(5)}) == 1


def test_a_connection_that_was_terminated_while_idle_is_never_handed_out(settings, shared_database):
    with opened(settings) as database:
        terminate(shared_database, backend(database))
        assert database.probe() > 0


@pytest.mark.proves("FR-003")
def test_a_connection_that_is_terminated_in_use_is_unavailable_and_then_replaced(settings, shared_database):
    with opened(settings) as database:
        with pytest.raises(DatabaseUnavailable) as caught, database.transaction():
            terminate(shared_database, database.execute("SELECT pg_backend_pid()").fetchone()[0])
            database.execute("SELECT 1")
        assert caught.value.reason == "connection_lost"
        assert database.connections_in_use() == 0
        assert database.probe() > 0


@pytest.mark.proves("FR-037")
def test_a_slow_statement_is_ended_by_the_server_and_the_connection_survives(settings):
    with opened(settings, statement_timeout_s=0.2) as database:
        before = backend(database)
        with unavailable_within(SOON_S, "statement_timeout"), database.transaction():
            database.execute("SELECT pg_sleep(30)")
        assert backend(database) == before


def test_a_deadlock_is_unavailable_since_it_may_be_repeated(settings, shared_database):
    reasons: list[str] = []
    meet = threading.Barrier(2)

    def lock(database: Database, first: int, second: int) -> None:
        try:
            with database.transaction():
                database.execute("SELECT pg_advisory_xact_lock(7, %s)", (first,))
                meet.wait(10)
                database.execute("SELECT pg_advisory_xact_lock(7, %s)", (second,))
        except DatabaseUnavailable as error:
            reasons.append(error.reason)

    with opened(settings) as database:
        threads = [threading.Thread(target=lock, args=(database, *order)) for order in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert reasons == ["conflict"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SET TRANSACTION READ ONLY; CREATE TABLE never_made (a int)", "read_only"),
        ("SELECT * FROM a_table_that_a_later_version_has", "schema"),
        ("SELECT a_column_that_a_later_version_has FROM polls", "schema"),
    ],
)
def test_a_standby_or_an_older_schema_is_no_fault_of_the_data(shared_database, statement, reason):
    with unavailable_within(SOON_S, reason), shared_database.transaction():
        shared_database.execute(statement)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 99999999999999999999::bigint", peewee.DataError),
        ("SELECT 1 / 0", peewee.DataError),
        ("INSERT INTO tallies (poll_id, votes) VALUES (1, NULL)", peewee.IntegrityError),
        ("SELEC 1", peewee.ProgrammingError),
    ],
)
def test_faults_of_the_data_are_errors_of_their_own_and_leave_the_connection_usable(settings, statement, error):
    with opened(settings) as database:
        before = backend(database)
        with pytest.raises(error), database.transaction():
            database.execute(statement)
        assert backend(database) == before


def test_any_error_rolls_back(settings):
    with opened(settings, pool_size=1) as database:
        with pytest.raises(KeyError), database.transaction():
            database.execute("CREATE TABLE never_kept (a int)")
            raise KeyError
        with database.transaction():
            assert database.execute("SELECT to_regclass('never_kept')").fetchone() == (None,)


def test_sql_outside_a_transaction_is_refused(shared_database):
    with pytest.raises(peewee.InterfaceError):
        shared_database.execute("SELECT 1")
    assert shared_database.connections_in_use() == 0


def test_commits_are_synchronous_and_idle_transactions_end(shared_database):
    wanted = {"synchronous_commit": "on", "statement_timeout": "8s", "idle_in_transaction_session_timeout": "12s"}
    with shared_database.transaction():
        for name, value in wanted.items():
            assert shared_database.execute(f"SHOW {name}").fetchone() == (value,)


def backend(database: Database) -> int:
    """The process of the server behind the connection that is handed out."""
    with database.transaction():
        return database.execute("SELECT pg_backend_pid()").fetchone()[0]


def terminate(database: Database, pid: int) -> None:
    """End one server process and wait until it is gone. On a thread, since the calling one may be in a transaction."""

    def run() -> None:
        with database.transaction():
            database.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)


@contextmanager
def read_only(settings: DatabaseSettings) -> Iterator[None]:
    """New sessions of this database can't write, as on a standby or a primary that was set aside."""
    name = urlsplit(settings.url).path[1:]
    set_for_all = f"ALTER DATABASE {name} SET default_transaction_read_only ="
    admin(settings.url, f"{set_for_all} on")
    try:
        yield
    finally:
        # Nobody's URL says so but this one's.
        admin(f"{settings.url}?options=-c%20default_transaction_read_only%3Doff", f"{set_for_all} off")


def test_a_server_that_takes_no_writes_is_no_primary_though_a_standby_it_may_be(settings):
    with opened(settings) as database, read_only(settings):
        with unavailable_within(SOON_S, "read_only"):
            database.probe()
        reads = open_database(settings, "votemill-tests", writable=False)
        assert reads.probe() > 0
        reads.close()
    # And as soon as it takes them it is taken
    with opened(settings) as database:
        assert database.probe() > 0


def test_a_session_that_turns_read_only_fails_at_once_also_for_reads_and_is_thrown_away(settings):
    with opened(settings) as database:
        before = backend(database)
        with database.session():
            database.execute("SET default_transaction_read_only = on")
            with unavailable_within(SOON_S, "read_only"):
                database.demand_writable()
        assert backend(database) != before
        # And one that has said so is not used for reading either: a breaker would take that for a recovery
        before = backend(database)
        with database.transaction():
            database.execute("SET default_transaction_read_only = on")
        with unavailable_within(SOON_S, "read_only"), database.transaction():
            pytest.fail("the transaction has begun")
        assert backend(database) != before


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SET TRANSACTION READ ONLY; CREATE TABLE never_made (a int)", "read_only"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "connection_lost"),
    ],
)
def test_after_one_connection_led_nowhere_none_that_was_open_is_used_again(settings, statement, reason):
    # Given two connections, one of them idle
    with opened(settings) as database, ThreadPoolExecutor(1) as another:
        # When the other one turns out to lead to the wrong server, or nowhere
        with unavailable_within(SOON_S, reason), database.transaction():
            idle = another.submit(backend, database).result()
            database.execute(statement)
        # Then neither is handed out
        assert backend(database) != idle


def test_a_call_that_hangs_is_given_up_once_a_new_connection_gets_through(settings, proxy, proxy_to_the_same):
    """The address has moved, and the server that it led to before says nothing any more."""
    reasons: list[str] = []

    def hang(database: Database, asked: threading.Event) -> None:
        try:
            with database.transaction():
                proxy.stall()
                asked.set()
                database.execute("SELECT 1")
        except DatabaseUnavailable as error:
            reasons.append(error.reason)

    with opened(at_port(settings, proxy.port), call_deadline_s=60) as database:
        asked = threading.Event()
        hanging = threading.Thread(target=hang, args=(database, asked))
        hanging.start()
        assert asked.wait(10)
        database.use(at_port(settings, proxy_to_the_same.port).url)
        # When nobody has noticed yet, others get answers and it waits on
        assert database.probe() > 0
        hanging.join(4)
        assert hanging.is_alive()
        # When somebody has: then it ends long before its deadline
        database.renew()
        assert database.probe() > 0
        hanging.join(20)
        assert reasons == ["overtaken"]


def test_of_several_hosts_the_one_that_takes_writes_is_found_behind_one_that_is_silent(settings, silent_server):
    parts = urlsplit(settings.url)
    login = parts.netloc.rpartition("@")[0]
    hosts = f"{login}@127.0.0.1:{silent_server},{parts.hostname}:{parts.port}"
    several = msgspec.structs.replace(settings, url=urlunsplit(parts._replace(netloc=hosts)))
    with opened(several, connect_timeout_s=0.5) as database:
        # The silence of the first one takes all of the first try's time
        with unavailable_within(SOON_S, "deadline"):
            database.probe()
        assert database.probe() > 0


def test_what_is_told_of_a_failure_has_neither_statement_nor_password(settings):
    parts = urlsplit(settings.url)
    with opened(settings) as database, pytest.raises(DatabaseUnavailable) as caught, database.transaction():
        database.execute("SELECT %s FROM nowhere", ("Anna",))
    assert caught.value.text == 'relation "nowhere" does not exist'
    wrong = f"{parts.username}:not-the-password@{parts.hostname}:{parts.port}"  # pragma: allowlist secret
    with (
        opened(msgspec.structs.replace(settings, url=urlunsplit(parts._replace(netloc=wrong)))) as database,
        pytest.raises(DatabaseUnavailable) as caught,
    ):
        database.probe()
    assert "authentication failed" in caught.value.text
    assert "not-the-password" not in caught.value.text


@pytest.mark.proves("FR-024")
def test_another_account_is_used_from_the_next_connection_on(settings):
    parts = urlsplit(settings.url)
    stranger = urlunsplit(parts._replace(netloc=f"nobody:x@{parts.netloc.rpartition('@')[2]}"))
    told: list[str] = []
    with opened(settings) as database, ThreadPoolExecutor(1) as another:
        database.on_failed_login(lambda: told.append("failed"))
        before = backend(database)
        # Given an address that libpq doesn't understand, nothing is changed
        with pytest.raises(psycopg2.ProgrammingError):
            database.use(f"{settings.url}?sslmodee=1")
        # When another account is to be used, the connection that is open stays
        database.use(stranger)
        with database.transaction():
            assert database.execute("SELECT pg_backend_pid()").fetchone()[0] == before
            # And whoever needs a new one logs in as the other, which may be refused
            with pytest.raises(DatabaseUnavailable, match="nobody"):
                another.submit(database.probe).result()
            assert told == ["failed"]
            database.use(settings.url)
            assert another.submit(database.probe).result() > 0
        assert told == ["failed"]


def test_other_users_of_psycopg2_in_the_process_are_not_disturbed(settings):
    connection = psycopg2.connect(settings.url)
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)
    connection.close()
