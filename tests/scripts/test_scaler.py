"""The scaler as a process of its own: on a stack that it adds workers to and takes them from, and by Nomad."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
import pytest

from scripts.faults.stack import read_env
from scripts.stack.resizing import names_of
from scripts.stack.run_folder import ROOT, RunFolder
from scripts.stack.supervision import Supervisor
from tests.breakable import second_stack
from tests.nomad.nomad_server import SCALERS_TOKEN, TOKEN, Cluster, serving
from tests.nomad.test_deploy import OLD, deploying
from tests.own_stack import plain_environment

pytestmark = [*second_stack, pytest.mark.proves("FR-029", "SC-012")]
PATIENCE_S = 90
T = TypeVar("T")

# How long it takes to store some votes, in seconds.
TAKES = """CREATE OR REPLACE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep({}); RETURN NULL; END'"""
TAKE_TIME = "CREATE TRIGGER take_time BEFORE INSERT ON votes EXECUTE FUNCTION take_time()"
NO_MORE = "DROP TRIGGER take_time ON votes"


@pytest.fixture
def stack(breakable_run_dir: Path) -> Path:
    return breakable_run_dir


@pytest.fixture
def slow_votes(stack: Path) -> Iterator[Callable[[float], None]]:
    """Lets storing take so many seconds from now on."""
    statements(stack, TAKES.format(0), TAKE_TIME)
    yield lambda seconds: statements(stack, TAKES.format(seconds))
    statements(stack, NO_MORE)


class Running:
    """A scaler's own process."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log
        self._read = 0

    def says(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for such a line, after the last one that was waited for."""

        def look() -> dict[str, Any] | None:
            for line in self._log.read_text()[self._read :].splitlines(keepends=True):
                if not line.endswith("\n"):
                    break
                self._read += len(line)
                said: dict[str, Any] = json.loads(line)
                if said["event"] == event and all(str(value) in str(said[key]) for key, value in fields.items()):
                    return said
            assert self.process.poll() is None, self._log.read_text()
            return None

        return eventually(look, lambda: self._log.read_text())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def eventually(look: Callable[[], T | None], otherwise: Callable[[], object]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {PATIENCE_S} s {otherwise()}")


@contextmanager
def scaling(stack: Path, log: Path, *options: str, **settings: str) -> Iterator[Running]:
    """Run one on a stack's figures."""
    env = plain_environment() | read_env(stack / "process.env") | {"PYTHONPATH": str(ROOT)}
    env |= {"VOTEMILL_LOG__JSON": "true", "VOTEMILL_SCALER__INTERVAL_S": "0.5", "VOTEMILL_SCALER__STALE_S": "3"}
    env |= {f"VOTEMILL_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", "scripts.scaling", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait()


def voting(stack: Path, seconds: int) -> "subprocess.Popen[str]":
    """scripts/load, which fails when an acked vote is missing, doubled or wrong."""
    options = ["--run-dir", str(stack), "--voters", "40", "--rate", "120", "--seconds", str(seconds)]
    env = plain_environment() | read_env(stack / "env")  # not the addresses of the stack that all tests share
    return subprocess.Popen(
        [ROOT / "scripts" / "load", *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def clean(load: "subprocess.Popen[str]") -> None:
    said, _ = load.communicate(timeout=PATIENCE_S)
    assert load.returncode == 0, said


def statements(stack: Path, *sql: str) -> None:
    connection = psycopg2.connect(read_env(stack / "env")["DATABASE_URL"])
    connection.autocommit = True
    try:
        for each in sql:
            connection.cursor().execute(each)
    finally:
        connection.close()


def workers(stack: Path) -> list[str]:
    states = Supervisor(RunFolder(stack)).states()
    return [name for name in names_of("worker", states) if states[name] == "RUNNING"]


def control(stack: Path, *words: str) -> None:
    subprocess.run([ROOT / "scripts" / "ctl", "--run-dir", stack, *words], check=True, capture_output=True, timeout=90)


def test_a_worker_is_added_under_load_and_taken_away_after_it_and_no_vote_is_lost(
    stack: Path, tmp_path: Path, slow_votes: Callable[[float], None]
) -> None:
    settings = {"SCALER__UP_AFTER_S": "1", "SCALER__DOWN_AFTER_S": "2", "SCALER__VOTES__MAX": "2"}
    with scaling(stack, tmp_path / "log", "--run-dir", str(stack), **settings) as scaler:
        scaler.says("nothing_scaled", tier="votes", why="as it should be")
        # When more votes come than are stored
        slow_votes(2)
        load = voting(stack, 10)
        change = scaler.says("scaled", tier="votes", before=1)
        assert change["after"] == 2 and (change["waited_s"] > 2 or change["waiting"] > 500)
        scaler.says("nothing_scaled", tier="votes", why="no more are allowed")
        assert workers(stack) == ["worker-1", "worker-2"]
        # Then the one that was added goes when all has been stored
        slow_votes(0)
        scaler.says("scaled", tier="votes", before=2, after=1)
        clean(load)
        assert workers(stack) == ["worker-1"]
        assert scaler.stop() == 0


def test_what_is_away_lets_the_scaler_hold_still_and_go_on_afterwards(stack: Path, tmp_path: Path) -> None:
    # Given a worker more than is needed
    control(stack, "scale", "workers", "2")
    settings = {"SCALER__UP_AFTER_S": "8", "SCALER__DOWN_AFTER_S": "8"}
    with scaling(stack, tmp_path / "log", "--run-dir", str(stack), **settings) as scaler:
        scaler.says("nothing_scaled", tier="votes", why="one less would do")
        for server, why in (("rabbitmq", "RabbitMQ tells nothing"), ("redis", "Redis is away")):
            control(stack, "stop", server)
            scaler.says("nothing_scaled", tier="votes", why=why)
            assert workers(stack) == ["worker-1", "worker-2"]
            control(stack, "start", server)
            # The time begins anew
            scaler.says("nothing_scaled", tier="votes", why="one less would do")
        assert workers(stack) == ["worker-1", "worker-2"]
        scaler.says("scaled", tier="votes", before=2, after=1)
        assert scaler.stop() == 0


def test_nodes_are_added_for_connections_by_one_of_two_scalers(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def desired() -> int:
        return int(cluster.jobs["votemill-node"]["Groups"]["node"]["Count"])

    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    cluster = Cluster(outcomes={})
    with serving(cluster) as nomad:
        monkeypatch.setenv("NOMAD_ADDR", nomad)
        deploying(OLD).run()
        settings = {
            "NOMAD__URL": nomad,
            "NOMAD__TOKEN": SCALERS_TOKEN,
            "SCALER__UP_AFTER_S": "1",
            "SCALER__NODE_CONNECTIONS_TARGET": "7",
        }
        # Given 40 connections, which six nodes should share, and four nodes
        load = voting(stack, 8)
        with scaling(stack, tmp_path / "dry.log", "--dry-run", **settings) as dry:
            dry.says("would_scale", tier="nodes", before=4, after=6)
            with scaling(stack, tmp_path / "scaler.log", **settings) as scaler:
                # When one that only looks is there, the other doesn't act, until that one is gone
                scaler.says("nothing_scaled", tier="nodes", why="another scaler is at work")
                assert desired() == 4
                assert dry.stop() == 0
                scaler.says("scaled", tier="nodes", before=4, after=6, connections=40)
                assert desired() == 6 and cluster.scalings["votemill-node", "node"][0]["Meta"]["connections"] == 40
                # And a Nomad without a leader is waited for
                cluster.answers_without_leader = 10**9
                scaler.says("nothing_scaled", tier="nodes", why="No cluster leader")
                cluster.answers_without_leader = 0
                scaler.says("nothing_scaled", tier="nodes", why="of 6 nodes report")
                assert scaler.stop() == 0
        clean(load)
        assert desired() == 6
