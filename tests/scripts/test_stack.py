"""The stack's commands, tried on a stack of their own with only the servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg2
import pytest

from models.database import open_database
from models.runtime.settings import load
from models.vote_store import store_batches
from scripts.faults.victim import Victim
from scripts.stack import ports, processes
from scripts.stack.data_folders import ELSEWHERE
from scripts.stack.run_folder import RunFolder
from tests.own_stack import on_own_servers
from tests.replica.superuser import ask
from tests.workers import given

pytestmark = on_own_servers
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
def stack(run_dir: Path) -> Iterator[Stack]:
    """PostgreSQL with an archive, RabbitMQ and Redis, up."""
    stack = Stack(run_dir / "stacks" / "servers")
    result = stack.up("--backup")
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


@pytest.mark.proves("FR-006", "SC-002")
def test_a_backup_brings_back_a_moment_after_all_files_are_lost(stack: Stack) -> None:
    # Given a backup, and votes before and after a moment
    wait_for(lambda: _answers(stack))
    database = open_database(msgspec.structs.replace(load().database, url=_env(stack)["DATABASE_URL"]), "test")
    poll = given.open_poll(database)
    done = stack.run("backup")
    assert done.returncode == 0, done.stdout + done.stderr
    store_batches(database, [given.votes(poll, 5)], given.now_us())
    # pgBackRest takes whole seconds: the moment must not lie in the one in which the backup ended.
    wait_for(lambda: time.time() % 1 > 0.5)
    wait_for(lambda: time.time() % 1 < 0.5)
    moment = datetime.now(UTC).isoformat()
    store_batches(database, [given.votes(poll, 3)], given.now_us())
    wal = ask(stack.folder, _env(stack)["DATABASE_URL"], "SELECT pg_walfile_name(pg_switch_wal())")
    wait_for(lambda: _sql(stack, "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= wal)
    database.close()
    # When the server is killed and its files are deleted
    Victim(RunFolder(stack.folder), "postgres").kill_and_hold_down()
    shutil.rmtree(stack.folder / "data" / "postgres" / "cluster")
    restored = stack.run("restore", "--to", moment)
    # Then the votes of then are there, and no others
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert _sql(stack, "SELECT count(*) FROM votes") == "5"
    assert stack.run("recount").stdout == "0 of the polls differ\n"
    # And a moment that the archive doesn't have leaves everything as it is
    refused = stack.run("restore", "--to", datetime.now(UTC).isoformat())
    assert refused.returncode == 1
    assert "recovery ended before configured recovery target was reached" in refused.stdout
    wait_for(lambda: _answers(stack))
    assert _sql(stack, "SELECT count(*) FROM votes") == "5"
    # And the broker's definitions and the settings were copied too, for nobody else to read
    (exports,) = (stack.folder / "data" / "backup" / "exports").iterdir()
    definitions = json.loads((exports / "broker-definitions.json").read_text())
    assert "votemill-votes" in {policy["name"] for policy in definitions["policies"]}
    assert "VOTEMILL_SECURITY__SIGNING_KEYS" in (exports / "process.env").read_text()
    assert {file.stat().st_mode & 0o077 for file in (exports, *exports.iterdir())} == {0}


def test_a_moment_that_is_none_and_a_stack_without_an_archive_are_refused(stack: Stack, tmp_path: Path) -> None:
    assert "has no time zone" in stack.run("restore", "--to", "2026-11-25T08:00:00").stderr
    assert "is still to come" in stack.run("restore", "--to", "2100-01-01T00:00:00Z").stderr
    result = Stack(tmp_path / "run").run("backup")
    assert (result.returncode, "scripts/up --backup" in result.stdout) == (1, True)


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


def _env(stack: Stack) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (stack.folder / "env").read_text().splitlines())


def _answers(stack: Stack) -> bool:
    try:
        return _sql(stack, "SELECT 1") == "1"
    except psycopg2.OperationalError:
        return False


def _sql(stack: Stack, statement: str) -> str:
    connection = psycopg2.connect(_env(stack)["DATABASE_URL"])
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return str(cursor.fetchone()[0])
    finally:
        connection.close()
