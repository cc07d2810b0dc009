"""A stack with what scripts/up adds on request, which may be broken: a standby, and StatsD with Graphite.

One for both files of tests, since starting servers takes a core.
"""

from __future__ import annotations

import csv
import http.client
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.alarm_drill.bench import SHORT_INTERVALS, settings_for
from scripts.alarm_drill.faults import disk_of
from scripts.alarm_drill.webhook import Webhook
from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack import ports
from scripts.stack.supervision import wait_until
from tests.own_stack import own_stack, process_number
from tests.replica.superuser import ask

SOON_S = 30
MAX_LAG_S = 4  # longer than any test needs while it holds the replay


class ReplicaStack(RunningStack):
    """A running stack with a standby."""

    def on(self, server: str, sql: str, *parameters: Any) -> Any:
        """Ask ``postgres`` or ``standby`` as the superuser."""
        url = self.env["REPLICA_URL" if server == "standby" else "DATABASE_URL"]
        return ask(self.folder.path, url, sql, *parameters)

    def is_level(self) -> bool:
        """Whether the standby has replayed everything that it has received."""
        return self.on("standby", "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()")

    def follows(self) -> bool:
        return self.on("standby", "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    @contextmanager
    def replay_held(self) -> Iterator[None]:
        """The standby goes on receiving, but shows what was up to now."""
        self.on("standby", "SELECT pg_wal_replay_pause()")
        wait_until(
            lambda: self.on("standby", "SELECT pg_get_wal_replay_pause_state()") == "paused", SOON_S, "it goes on"
        )
        try:
            yield
        finally:
            self.on("standby", "SELECT pg_wal_replay_resume()")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """The primary lets the standby in no more."""
        self.on("postgres", "ALTER ROLE votemill_standby NOLOGIN")
        self.on("postgres", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
        wait_until(lambda: not self.follows(), SOON_S, "the standby still follows")
        try:
            yield
        finally:
            self.on("postgres", "ALTER ROLE votemill_standby LOGIN")


class Witness:
    """An open poll with one vote. On which server its rows were read, the voter's name tells, once it differs there."""

    def __init__(self, stack: ReplicaStack) -> None:
        self._stack = stack
        self.node = stack.nodes[0]
        self.room = rest.open_room(self.node, 1, 2)
        self.guest = Guest(self.node)
        assert self.guest.join(self.room.code, "nobody").success
        assert self.guest.vote(self.room.code, 0).success
        wait_until(lambda: self.names() == ["nobody"], SOON_S, "the vote is not stored")

    def names(self) -> list[str]:
        """The names in an export; it must succeed."""
        return [row[0] for row in export(self.node, self.room)]

    def call_voter(self, name: str) -> None:
        """Rename the voter on the primary, past everything that raises the poll's version."""
        sql = "UPDATE participants SET nickname = %s WHERE participant_id = %s"
        self._stack.on("postgres", sql, name, self.guest.participant_id)

    def known_as_standby(self) -> None:
        """The standby, and still the primary too, have the voter as ``standby``."""
        self.call_voter("standby")
        sql = "SELECT nickname FROM participants WHERE participant_id = %s"
        wait_until(
            lambda: self._stack.on("standby", sql, self.guest.participant_id) == "standby", SOON_S, "it is not replayed"
        )

    def reads_standby(self) -> bool:
        """Whether an export shows what only the standby still has."""
        self.known_as_standby()
        with self._stack.replay_held():
            self.call_voter("primary")
            return self.names() == ["standby"]


def export(node: rest.Base, room: rest.Room) -> list[list[str]]:
    """The rows of results.csv, without the heading."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=15)
    try:
        headers = {"Authorization": f"Bearer {room.host_token}"}
        connection.request("GET", f"/api/polls/{room.code}/results.csv", headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, text
    return list(csv.reader(io.StringIO(text)))[1:]


@pytest.fixture(scope="package")
def webhook() -> Iterator[Webhook]:
    """Where the stack's alerts arrive."""
    with Webhook(ports.any_free()) as webhook:
        yield webhook


@pytest.fixture(scope="package")
def replica_stack(run_dir: Path, webhook: Webhook) -> Iterator[ReplicaStack]:
    folder = run_dir / "stacks" / f"replica-{process_number()}"
    disk_of(folder).mkdir(parents=True, exist_ok=True)
    settings = settings_for(webhook.url, disk_of(folder)) | SHORT_INTERVALS
    settings["DATABASE__REPLICA_MAX_LAG_S"] = str(MAX_LAG_S)
    with own_stack(run_dir, "replica", "--replica", "--metrics", settings=settings) as folder:
        yield ReplicaStack(folder)


@pytest.fixture(scope="module")
def witness(replica_stack: ReplicaStack) -> Iterator[Witness]:
    witness = Witness(replica_stack)
    yield witness
    witness.guest.close()


@pytest.fixture
def stack(replica_stack: ReplicaStack, witness: Witness) -> Iterator[ReplicaStack]:
    """Exports are read from the standby, before the test and again after it."""
    wait_until(witness.reads_standby, SOON_S, "exports are not read from the standby")
    yield replica_stack
    replica_stack["standby"].thaw()
    wait_until(witness.reads_standby, SOON_S, "exports are not read from the standby any more")
