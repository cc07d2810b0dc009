"""Passwords of database and broker are rotated under votes: no vote is refused or lost, and no connection dropped."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from models.runtime import reading
from models.runtime.tokens import InvalidToken, Tokens
from scripts.faults.load import OPTIONS, Load, Size, describe_findings
from scripts.faults.stack import RunningStack, read_env
from scripts.loadtest import rest
from scripts.stack import ports
from scripts.stack.run_folder import ROOT, RunFolder, write_private
from scripts.stack.services import rabbitmq
from scripts.stack.services.haproxy import answers_ready
from scripts.stack.supervision import wait_until
from tests.breakable import first_stack

pytestmark = first_stack
_STARTS_WITHIN_S = 60.0
_SOON_S = 20.0
_ROLE = "votemill"
_OURS = ("rotating-votes", "rotating-host", "rotating-node")


class Servers:
    """The stack's PostgreSQL and RabbitMQ, as their administrators see them."""

    def __init__(self, folder: RunFolder, dsn: str) -> None:
        self._folder = folder
        parts = urlsplit(dsn)
        self._admin = {
            "host": parts.hostname,
            "port": parts.port,
            "user": "postgres",
            "dbname": "votemill",
            "password": folder.secret("database-admin-password"),
        }

    def change_passwords(self, database: str, broker: str) -> None:
        self._sql(f"ALTER ROLE {_ROLE} PASSWORD %s", database)
        assert rabbitmq.run_ctl(self._folder, ["change_password", _ROLE, broker]) == 0

    def sessions(self) -> set[int]:
        """The processes that serve our workers, by number."""
        return {
            pid for (pid,) in self._sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'rotating-%%'")
        }

    def end_sessions(self) -> None:
        self._sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rotating-%%'")

    def connections(self) -> set[str]:
        """Names that no two connections have."""
        return set(self._ctl("-q", "list_connections", "name", "--no-table-headers").splitlines())

    def end_connections(self, names: set[str]) -> None:
        listed = ",".join(f'<<"{name}">>' for name in names)
        ended = self._ctl(
            "eval",
            f'length([rabbit_networking:close_connection(P, "rotated") || [{{pid, P}}, {{name, N}}] <- '
            f"rabbit_networking:connection_info_all([pid, name]), lists:member(N, [{listed}])]).",
        )
        assert int(ended) == len(names)

    def _sql(self, statement: str, *values: str) -> list[tuple[int]]:
        connection = psycopg2.connect(**self._admin)
        connection.autocommit = True
        try:
            cursor = connection.cursor()
            cursor.execute(statement, values)
            return list(cursor) if cursor.description else []
        finally:
            connection.close()

    def _ctl(self, *arguments: str) -> str:
        said = self._folder.log("rotation")
        with said.open("w") as out:
            assert rabbitmq.run_ctl(self._folder, list(arguments), out) == 0, said.read_text()
        return said.read_text()


@dataclass
class Processes:
    """A node and workers that are given these secrets in files alone."""

    url: str
    folder: Path
    logs: dict[str, Path]

    def write(self, **secrets: str) -> None:
        for name, value in secrets.items():
            write_private(self.folder / name.replace("__", "."), value)

    def says(self, event: str, *names: str) -> bool:
        """Whether each of them has logged it."""
        return all(f'"{event}"' in self.logs[name].read_text() for name in names)


@pytest.fixture
def servers(stack: RunningStack) -> Iterator[Servers]:
    """With the passwords of before at the end, for whoever uses the stack next."""
    servers = Servers(stack.folder, stack.dsn)
    yield servers
    servers.change_passwords(stack.folder.secret("database-password"), stack.folder.secret("broker-password"))
    stack.dsn = stack.env["DATABASE_URL"]


@pytest.fixture
def others(servers: Servers) -> set[str]:
    """The broker's connections of those who stay as they are."""
    return servers.connections()


@pytest.fixture
def processes(stack: RunningStack, others: set[str], tmp_path: Path) -> Iterator[Processes]:
    """In place of the stack's own workers."""
    for victim in stack.of_kind("worker") + stack.of_kind("host-worker"):
        victim.kill_and_hold_down()
    port = ports.any_free()
    folder = tmp_path / "secrets"
    folder.mkdir()
    running = Processes(f"http://{ports.LOOPBACK}:{port}", folder, {name: stack.folder.log(name) for name in _OURS})
    running.write(
        database__url=stack.env["DATABASE_URL"],
        broker__url=stack.env["AMQP_URL"],
        security__signing_keys=f'["{stack.folder.secret("signing-key")}"]',
        security__admin_token=stack.folder.secret("admin-token"),
    )
    in_files = [reading.variable(*file.name.split(".")) for file in folder.iterdir()]
    given = read_env(stack.folder.process_env_file)
    env = {name: given[name] for name in given if not name.startswith(tuple(in_files))}
    env |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "VOTEMILL_LOG__JSON": "true"}
    env |= {"VOTEMILL_SECRETS__PROVIDER": "files", "VOTEMILL_SECRETS__FOLDER": str(folder)}
    env |= {"VOTEMILL_NODE__PORT": str(port)}
    # One of them asks so seldom that it hears of the new secrets only because a login has failed.
    refresh_s = {"rotating-node": "0.5", "rotating-votes": "3600", "rotating-host": "0.5"}
    started = []
    for name, kind, *module in (
        ("rotating-votes", "WORKER", "workers", "votes"),
        ("rotating-host", "WORKER", "workers", "host"),
        ("rotating-node", "NODE", "socket_tier"),
    ):
        own = {f"VOTEMILL_{kind}__NAME": name, "VOTEMILL_SECRETS__REFRESH_S": refresh_s[name]}
        with running.logs[name].open("w") as out:
            command = [sys.executable, "-m", *module]
            started.append(subprocess.Popen(command, env=env | own, cwd=ROOT, stdout=out, stderr=out))
    try:
        wait_until(
            lambda: answers_ready(port) and running.says("worker_started", "rotating-votes", "rotating-host"),
            _STARTS_WITHIN_S,
            "the processes with secrets in files did not start",
            running.logs["rotating-node"],
        )
        yield running
        assert not [process.args for process in started if process.poll() is not None]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


@pytest.mark.proves("FR-024", "SC-002", "US4.3")
def test_passwords_and_keys_are_rotated_under_votes(
    stack: RunningStack, servers: Servers, processes: Processes, others: set[str]
) -> None:
    new = {"database": secrets.token_urlsafe(24), "broker": secrets.token_urlsafe(24)}
    new_key, old_key, admin = secrets.token_urlsafe(32), stack.folder.secret("signing-key"), secrets.token_urlsafe(24)
    with Load(stack, Size(voters=40, rate=200), processes.url) as load:
        load.begin()
        sessions, connections = servers.sessions(), load.during(servers.connections) - others
        assert sessions and len(connections) >= 8
        # When the servers get new passwords, and the files a moment later
        load.during(lambda: servers.change_passwords(**new))
        stack.dsn = with_password(stack.dsn, new["database"])
        processes.write(
            database__url=stack.dsn,
            broker__url=with_password(stack.env["AMQP_URL"], new["broker"]),
            security__signing_keys=f'["{new_key}", "{old_key}"]',
            security__admin_token=admin,
        )
        for name in ("rotating-node", "rotating-host"):
            assert load.until(lambda name=name: processes.says("secrets_changed", name), _SOON_S), (
                f"{name} takes nothing over"
            )
        load.watch(1)
        # Then every connection is the one it was, and nobody has noticed anything
        assert sessions <= servers.sessions()
        assert connections <= load.during(servers.connections)
        assert load.progress().refused == 0
        # And when all of them end, whoever connects has the new ones, also who asks for them only when it is refused
        load.during(lambda: servers.end_connections(connections))
        load.during(servers.end_sessions)
        assert load.until(lambda: processes.says("secrets_changed", "rotating-votes"), _SOON_S), (
            "a failed login asks nobody"
        )
        assert load.until(lambda: signed_with(new_key, processes.url), _SOON_S), "no new poll after the rotation"
        assert [knows_admin(processes.url, word) for word in (admin, stack.folder.secret("admin-token"))] == [
            True,
            False,
        ]
        before = load.progress().acked
        assert load.until(lambda: load.progress().acked > before + 100, _SOON_S), "no votes after the rotation"
        result = load.settle(_SOON_S)
    assert result["clean"], describe_findings(result)
    assert (result["reconnects"], result["answers_complete"]) == (0, True)
    # And no password stands in a log
    told = "".join(log.read_text() for log in processes.logs.values())
    all_secrets = [*new.values(), new_key, admin, *(file.read_text() for file in stack.folder.secrets.iterdir())]
    assert told and not [secret for secret in all_secrets if secret.strip() in told]


def with_password(url: str, password: str) -> str:
    changed, n = re.subn(r"(://[^:]+):[^@]+@", rf"\1:{password}@", url)
    assert n == 1
    return changed


def signed_with(key: str, url: str) -> bool:
    """Whether a worker makes a poll, and the node signs its host's token with this key."""
    try:
        room = rest.open_room(rest.parse_base(url), 7, OPTIONS)
        return bool(Tokens([key], 3600).read_host(room.host_token))
    except (rest.RestError, InvalidToken):
        return False


def knows_admin(url: str, token: str) -> bool:
    try:
        return bool(rest.call(rest.parse_base(url), "GET", "/api/config/log-level", token=token))
    except rest.RestError:
        return False
