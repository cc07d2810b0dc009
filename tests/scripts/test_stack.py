"""The stack's commands, tried on a stack of their own with only the servers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from scripts.stack import ports, processes
from scripts.stack.data_folders import ELSEWHERE
from scripts.stack.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("postgres", "rabbitmq", "redis")


class Stack:
    """A stack in a folder of its own, without nodes and workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        only_servers = ["--nodes", "0", "--workers", "0", "--host-workers", "0", "--detach"]
        return self.run("up", *only_servers, *arguments)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / command, "--run-dir", self.folder, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def pid(self, name: str) -> int:
        return int((self.folder / "pids" / f"{name}.pid").read_text())

    def supervisor_pid(self) -> int:
        return int((self.folder / "processes" / "supervisord.pid").read_text())

    def left_running(self) -> set[int]:
        noted = {processes.noted(file) for file in (self.folder / "processes").glob("*.noted")}
        return processes.marked(str(self.folder)) | {pid for pid in noted if pid}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, RabbitMQ and Redis, up."""
    stack = Stack(tmp_path_factory.mktemp("stack") / "run")
    result = stack.up()
    assert result.returncode == 0, result.stdout + result.stderr
    yield stack
    stack.run("down")
    shutil.rmtree(ELSEWHERE / RunFolder(stack.folder).identity, ignore_errors=True)


def wait_for(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_the_pid_files_name_the_servers_themselves(stack: Stack) -> None:
    running = {name: (Path("/proc") / str(stack.pid(name)) / "comm").read_text().strip() for name in SERVERS}
    assert running == {"postgres": "postgres", "rabbitmq": "beam.smp", "redis": "redis-server"}


def test_the_servers_do_not_run_as_root(stack: Stack) -> None:
    assert all((Path("/proc") / str(stack.pid(name))).stat().st_uid != 0 for name in SERVERS)


def test_up_twice_says_that_it_is_running(stack: Stack) -> None:
    before = stack.pid("redis")
    result = stack.up()
    assert result.returncode == 0
    assert "already running" in result.stdout
    assert stack.pid("redis") == before


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_server_is_started_again_with_its_new_pid_in_the_file(stack: Stack, name: str) -> None:
    # Given a server that runs
    before = stack.pid(name)
    # When it is killed
    os.kill(before, signal.SIGKILL)
    # Then another one takes its place, and the file says which
    wait_for(lambda: stack.pid(name) != before)
    noted = stack.folder / "processes" / f"{name}.noted"
    wait_for(lambda: processes.noted(noted) == stack.pid(name))


def test_what_ctl_stops_stays_stopped_until_it_is_started(stack: Stack) -> None:
    # When Redis is stopped on purpose
    assert stack.run("ctl", "stop", "redis").returncode == 0
    # Then nobody starts it again
    time.sleep(1.5)
    assert stack.run("ctl", "status", "redis").returncode == 3
    # Until somebody asks for it
    assert stack.run("ctl", "start", "redis").returncode == 0
    assert "RUNNING" in stack.run("ctl", "status", "redis").stdout


def test_ctl_names_its_choices_when_a_name_is_unknown(stack: Stack) -> None:
    result = stack.run("ctl", "stop", "mysql")
    assert result.returncode == 2
    assert "postgres, rabbitmq, redis" in result.stdout


def test_after_everything_was_killed_up_starts_again_with_what_was_stored(stack: Stack) -> None:
    # Given something stored, and every process killed, the supervisor first
    stored = _sql(stack, "CREATE TABLE kept AS SELECT 42 AS answer; SELECT answer FROM kept")
    os.kill(stack.supervisor_pid(), signal.SIGKILL)
    for name in SERVERS:
        os.kill(stack.pid(name), signal.SIGKILL)
    # When up runs again
    result = stack.up()
    # Then it starts, and the data is there
    assert result.returncode == 0, result.stdout
    assert _sql(stack, "SELECT answer FROM kept") == stored == "42"


def test_a_killed_supervisor_leaves_servers_that_down_still_stops(stack: Stack) -> None:
    # Given servers without a supervisor
    os.kill(stack.supervisor_pid(), signal.SIGKILL)
    wait_for(lambda: not processes.start_time(stack.supervisor_pid()))
    # When down runs
    result = stack.run("down")
    # Then it stops them, and nothing of the stack is left
    assert result.returncode == 0
    wait_for(lambda: not stack.left_running())
    assert not list((stack.folder / "pids").iterdir())


def test_a_failing_step_says_where_and_leaves_nothing_running(tmp_path: Path) -> None:
    # Given a stack whose PostgreSQL data is unusable, and which needs nothing else
    stack = Stack(tmp_path / "run")
    stack.environment |= {"VOTEMILL_REDIS__URL": "redis://127.0.0.1:1/0", "VOTEMILL_BROKER__URL": "amqp://127.0.0.1:1"}
    cluster = stack.folder / "data" / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9.1\n")
    # When it is started
    result = stack.up()
    # Then one line says what is wrong and where its log lies, and nothing runs
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith("✗ postgres did not become ready")
    assert str(stack.folder / "log" / "postgres.log") in result.stdout
    assert not stack.left_running()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path, stack: Stack) -> None:
    with socket.socket() as squatter:
        squatter.bind((ports.LOOPBACK, 0))
        squatter.listen()
        other = Stack(tmp_path / "run")
        result = other.run("up", "--detach", "--port", str(squatter.getsockname()[1]))
    assert result.returncode == 1
    assert "is taken by another program" in result.stdout
    assert not other.left_running()


def test_unlimited_is_refused_in_production(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    stack.environment["VOTEMILL_ENV"] = "production"
    result = stack.up("--unlimited")
    assert result.returncode == 1
    assert "refused when VOTEMILL_ENV is production" in result.stdout


def _sql(stack: Stack, statement: str) -> str:
    env = dict(line.split("=", 1) for line in (stack.folder / "env").read_text().splitlines())
    connection = psycopg2.connect(env["DATABASE_URL"])
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return str(cursor.fetchone()[0])
    finally:
        connection.close()
