"""What the worker tests stand on: real servers, and nothing shared with a stack that may be running on them.

A database of its own, a Redis server of its own (pub/sub channels don't know databases), and command queues and an
exchange with names of their own on the shared RabbitMQ.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import dramatiq
import msgspec
import pika
import psycopg2
import psycopg2.errors
import pytest
import redis

from models.database import Database, open_database
from models.migrations.runner import migrate_up
from models.runtime.settings import Settings, load
from models.wire import names
from models.wire.commands import ROUTES
from models.wire.envelope import wrap
from models.wire.notices import Notice, StateChanged
from models.wire.polls import PollState
from scripts.stack.ports import any_free
from workers import topology
from workers.finals import NOBODY
from workers.process import WorkerProcess

PATIENCE_S = 15.0  # On a busy machine everything is late, nothing is missing.


def eventually(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """The condition's first true value; fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    pytest.fail(f"not true within {within_s} s")


def admin(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


class RedisServer:
    """A Redis process of the tests' own, which may be stopped and started."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.port = any_free()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([program, *options], cwd=self._folder, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        eventually(lambda: _answers(client))
        client.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(str(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cache(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


def dropped(database_url: str, name: str) -> bool:
    """False while autovacuum is at work there, whose process only a superuser may end."""
    try:
        admin(database_url, f"DROP DATABASE {name} WITH (FORCE)")
    except psycopg2.errors.InsufficientPrivilege:
        return False
    return True


@pytest.fixture(scope="session")
def worker_database_url(database_url: str) -> Iterator[str]:
    name = f"votemill_test_{uuid4().hex[:12]}"
    admin(database_url, f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    eventually(lambda: dropped(database_url, name), 60)


@pytest.fixture(scope="session")
def settings(worker_database_url: str, amqp_url: str, redis_server: RedisServer) -> Settings:
    replace = msgspec.structs.replace
    loaded = load()
    settings = replace(
        loaded,
        database=replace(loaded.database, url=worker_database_url, pool_size=16),
        broker=replace(loaded.broker, url=amqp_url),
        redis=replace(loaded.redis, url=redis_server.url),
        worker=replace(loaded.worker, name="worker-under-test", threads=4, straggler_wait_s=2),
    )
    migrate_up(settings.database)
    return settings


@pytest.fixture(scope="session")
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings.database, "worker-tests")
    yield database
    database.close()


@pytest.fixture
def no_database(database_url: str, worker_database_url: str) -> Iterator[Callable[[bool], None]]:
    """Takes the database away (True) and gives it back (False), as a failover looks to its clients."""
    name = urlsplit(worker_database_url).path.lstrip("/")

    # Not autovacuum, which is a superuser's.
    theirs = f"datname = '{name}' AND backend_type = 'client backend'"

    def away(is_away: bool) -> None:
        admin(database_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(not is_away).lower()}")
        if is_away:
            admin(database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {theirs}")

    yield away
    away(False)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch, amqp: "Amqp") -> Iterator[dict[str, str]]:
    """Command queues for one test, and an exchange for its nodes: the usual name of a queue -> the name for this test.

    The stack's nodes must hear nothing of these workers, whose database goes away, nor the test of the stack's.
    """
    run = uuid4().hex[:8]
    private = {queue: f"test-{run}.{queue}" for queue in names.COMMAND_QUEUES}
    for command, (actor, queue) in list(ROUTES.items()):
        monkeypatch.setitem(ROUTES, command, (actor, private[queue]))
    monkeypatch.setattr(names, "COMMAND_QUEUES", tuple(private.values()))
    monkeypatch.setattr(names, "NODES_EXCHANGE", f"test-{run}.nodes")
    topology.declare(amqp.channel)
    yield private
    for queue in private.values():
        for name in (queue, f"{queue}.DQ", f"{queue}.dead"):
            amqp.channel.queue_delete(name)
    amqp.channel.exchange_delete(names.NODES_EXCHANGE)


class Amqp:
    """A connection of the test's own."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()

    def send(self, command: msgspec.Struct, traceparent: str = "", traced: dict[int, str] | None = None) -> None:
        queue, body = wrap(command, traceparent, traced=traced)
        self.channel.basic_publish("", queue, body)

    def take(self, queue: str, within_s: float = PATIENCE_S) -> tuple[dict[str, Any], bytes]:
        """Headers and body of the queue's next message."""

        def get() -> tuple[dict[str, Any], bytes] | None:
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            return None if method is None else (properties.headers or {}, body)

        return eventually(get, within_s)

    def is_empty(self, queue: str) -> bool:
        return self.channel.queue_declare(queue, passive=True).method.message_count == 0


@pytest.fixture
def amqp(amqp_url: str) -> Iterator[Amqp]:
    amqp = Amqp(amqp_url)
    yield amqp
    amqp.connection.close()


def _is_reminder(notice: Any) -> bool:
    closed = isinstance(notice, StateChanged) and notice.request_id == NOBODY
    return closed and notice.poll.state is notice.previous_state is PollState.CLOSED


class Node:
    """Stands for a socket node: its reply queue."""

    def __init__(self, amqp: Amqp) -> None:
        self.id: UUID = uuid4()
        self._amqp = amqp
        queue = names.reply_queue(self.id)
        amqp.channel.exchange_declare(names.NODES_EXCHANGE, "fanout", durable=True)
        amqp.channel.queue_declare(queue, exclusive=True, auto_delete=True)
        amqp.channel.queue_bind(queue, names.NODES_EXCHANGE)
        self._queue = queue

    def hears(self, kind: type, within_s: float = PATIENCE_S) -> Any:
        """The next notice of this type; others are passed over, as are reminders of closed polls: they may come."""
        deadline = time.monotonic() + within_s
        while True:
            _, body = self._amqp.take(self._queue, max(0.01, deadline - time.monotonic()))
            notice = msgspec.json.decode(body, type=Notice)
            if isinstance(notice, kind) and not _is_reminder(notice):
                return notice


@pytest.fixture
def node(amqp: Amqp, queues: dict[str, str]) -> Node:
    return Node(amqp)


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(settings: Settings, queues: dict[str, str], cache: redis.Redis) -> Iterator[Start]:
    """Starts workers in this process, as Dramatiq's child would; stops them at the end."""
    running: list[dramatiq.Worker] = []

    def start(role: str, prepare: Callable[[WorkerProcess], None] = lambda process: None) -> WorkerProcess:
        process = WorkerProcess(settings, role)
        prepare(process)
        worker = dramatiq.Worker(process.broker, worker_threads=settings.worker.threads, worker_timeout=100)
        worker.start()
        running.append(worker)
        return process

    yield start
    for worker in running:
        worker.stop(timeout=10_000)
        worker.broker.close()
