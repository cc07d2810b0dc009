"""scripts/doctor against a stack that is well, and with things broken on purpose."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest

from models.migrations.runner import migrate_up
from models.runtime.settings import load
from models.wire import names
from scripts.checkup import broker, database
from scripts.checkup.findings import Here, Made
from scripts.faults.stack import RunningStack, read_env
from scripts.stack.run_folder import ROOT
from scripts.stack.services import rabbitmq
from tests.breakable import second_stack
from tests.own_stack import plain_environment
from tests.replica.superuser import ask

pytestmark = [*second_stack, pytest.mark.proves("FR-018")]

Doctor = Callable[..., tuple[int, dict[str, tuple[str, str]], str]]
Look = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def doctor(run_dir: Path) -> Doctor:
    """The exit status, (status, what is found) by check, and all that was said."""

    def run(*options: str, **settings: str) -> tuple[int, dict[str, tuple[str, str]], str]:
        env = plain_environment() | (read_env(run_dir / "process.env") if settings else {})
        done = subprocess.run(
            [ROOT / "scripts" / "doctor", "--run-dir", run_dir, "--json", "--deadline-s", "100", *options],
            env=env | {f"VOTEMILL_{key}": value for key, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.stdout, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        findings = {one["check"]: (one["status"], one["found"]) for one in told["findings"]}
        assert told["verdict"] == done.returncode
        for one in told["findings"]:
            assert one["advice"] or one["status"] in ("ok", "unknown"), one
        return done.returncode, findings, done.stdout

    return run


@pytest.fixture
def look(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """(status, what is found) by check, of one group of questions with a few other settings."""

    def run(made: Made, **settings: str) -> dict[str, tuple[str, str]]:
        for name in [name for name in os.environ if name.startswith("VOTEMILL_")]:
            monkeypatch.delenv(name)
        other = {f"VOTEMILL_{key}": value for key, value in settings.items()}
        for name, value in (read_env(run_dir / "process.env") | other).items():
            monkeypatch.setenv(name, value)
        return {one.check: (one.status.value, one.found) for one in made(Here(load(), run_dir))}

    return run


@pytest.fixture
def other_database(run_dir: Path, database_url: str) -> Iterator[str]:
    """An empty database of the tables' owner, beside the one that is in use."""
    name = f"doctor_{uuid4().hex}"
    ask(run_dir, database_url, f"CREATE DATABASE {name} OWNER votemill")
    yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    ask(run_dir, database_url, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_healthy_stack_is_well_and_no_secret_is_told(stack: RunningStack, doctor: Doctor, run_dir: Path) -> None:
    code, found, said = doctor()
    assert code == 0, {check: finding for check, finding in found.items() if finding[0] not in ("ok", "note")}
    for check in (
        "settings", "PostgreSQL version", "PostgreSQL durability", "PostgreSQL migrations", "PostgreSQL clock",
        "RabbitMQ version", "queue votes", "RabbitMQ confirms", "RabbitMQ policies", "RabbitMQ clock",
        "Redis eviction", "Redis clock", "nodes", "workers", "worker worker-1/votes clock", "signing keys",
    ):  # fmt: skip
        assert found[check][0] == "ok", (check, found)
    secrets = [file.read_text().strip() for file in (run_dir / "secrets").iterdir() if file.is_file()]
    assert secrets and not [secret for secret in secrets if secret in said]


def test_servers_that_are_away_or_hang_are_named_and_the_others_are_asked(stack: RunningStack, doctor: Doctor) -> None:
    stack["redis"].kill_and_hold_down()
    stack["rabbitmq"].freeze()
    code, found, _ = doctor("--only", "redis,rabbitmq,workers,postgres,nodes")
    assert code == 2
    for server in ("Redis", "RabbitMQ"):
        assert found[server][0] == "failed" and "not reached" in found[server][1]
    assert found["workers"][0] == "unknown" and found["PostgreSQL durability"][0] == "ok"
    assert {found[check][0] for check in found if check.startswith("node http")} <= {"warning", "failed"}


def test_a_queue_without_its_limit_is_named(stack: RunningStack, look: Look) -> None:
    assert rabbitmq.run_ctl(stack.folder, ["clear_policy", "votemill-host"]) == 0
    try:
        found = look(broker.definitions)
    finally:
        subprocess.run([ROOT / "scripts" / "broker-policies", "--run-dir", stack.folder.path], timeout=60, check=True)
    assert found["RabbitMQ policies"] == ("failed", "votemill-host is missing")


def test_a_role_that_doesnt_wait_for_the_disk_is_named(
    stack: RunningStack, look: Look, run_dir: Path, database_url: str
) -> None:
    ask(run_dir, database_url, "CREATE ROLE hasty")
    ask(run_dir, database_url, "ALTER ROLE hasty SET synchronous_commit = off")
    try:
        status, what = look(database.check)["PostgreSQL durability"]
    finally:
        ask(run_dir, database_url, "DROP ROLE hasty")
    assert status == "failed" and "synchronous_commit=off for hasty" in what


def test_a_database_without_tables_and_one_without_a_right_are_named(
    stack: RunningStack, look: Look, run_dir: Path, other_database: str
) -> None:
    # Given nothing but a database
    found = look(database.check, DATABASE__URL=other_database)
    status, what = found["PostgreSQL migrations"]
    assert status == "failed" and "pending: 0001_initial, 0002_" in what
    assert found["PostgreSQL retention"][0] == "unknown"
    # When it is migrated, and somebody takes rights away and gives another
    groups = ask(run_dir, other_database, "SELECT count(*) FROM pg_roles WHERE rolname = 'votemill_votes'")
    if not groups:
        ask(run_dir, other_database, "CREATE ROLE votemill_votes")
    try:
        migrate_up(load().database)
        found = look(database.check, DATABASE__URL=other_database)
        assert (found["PostgreSQL migrations"][0], found["PostgreSQL accounts"][0]) == ("ok", "ok")
        ask(run_dir, other_database, "REVOKE INSERT ON votes FROM votemill_votes")
        ask(run_dir, other_database, "REVOKE UPDATE (version) ON polls FROM votemill_votes")
        status, what = look(database.check, DATABASE__URL=other_database)["PostgreSQL accounts"]
        assert status == "failed" and "votemill_votes lacks INSERT on votes" in what
        assert "votemill_votes lacks UPDATE on polls (version)" in what
        ask(run_dir, other_database, "GRANT INSERT, DELETE ON votes TO votemill_votes")
        ask(run_dir, other_database, "GRANT UPDATE (version) ON polls TO votemill_votes")
        found = look(database.check, DATABASE__URL=other_database)
        assert found["PostgreSQL accounts"] == ("warning", "votemill_votes has DELETE on votes")
    finally:
        if not groups:
            ask(run_dir, other_database, "DROP OWNED BY votemill_votes")
            ask(run_dir, other_database, "DROP ROLE votemill_votes")


def test_missing_workers_and_dead_letters_are_named(stack: RunningStack, look: Look, amqp_url: str) -> None:
    stack["worker-1"].kill_and_hold_down()
    dead = names.dead_letter_queue(names.VOTES_QUEUE)
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        connection.channel().basic_publish("", dead, b"{}")
        found = look(broker.workers) | look(broker.check)
    finally:
        connection.channel().queue_purge(dead)
        connection.close()
    assert found["workers"][0] == "failed" and "nobody works on votes" in found["workers"][1]
    assert found["queue votes"][0] == "failed" and "0 consumers" in found["queue votes"][1]
    assert found["dead letters of votes"] == ("warning", "1 commands")


def test_every_problem_of_the_settings_is_named_and_the_servers_are_asked(stack: RunningStack, doctor: Doctor) -> None:
    wrong = {"SHED__NEWCOMERS_LAG_S": "9", "DATABASE__STATEMENT_TIMEOUT_S": "99"}
    code, found, said = doctor("--only", "redis", **wrong)
    assert code == 2 and found["settings"][0] == "failed"
    assert "shed.newcomers_lag_s: must not exceed" in said and "database.statement_timeout_s: must be below" in said
    assert found["Redis version"][0] == "ok"
