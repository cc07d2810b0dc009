"""scripts/up --replica: a standby that is supervised, follows again by itself, and is made anew when it can't."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import pytest

from models.database import open_database
from models.runtime.settings import load
from scripts.faults.victim import Victim
from scripts.stack.data_folders import ELSEWHERE
from scripts.stack.run_folder import RunFolder
from tests.own_stack import on_own_servers
from tests.replica.superuser import ask
from tests.scripts.test_stack import Stack, wait_for
from tests.workers import given

pytestmark = [on_own_servers, pytest.mark.proves("FR-034")]


class Pair(Stack):
    """A primary and its standby, and no other server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        nowhere = {"VOTEMILL_REDIS__URL": "redis://127.0.0.1:1/0", "VOTEMILL_BROKER__URL": "amqp://127.0.0.1:1"}
        self.environment |= nowhere

    def url(self, server: str) -> str:
        lines = (self.folder / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)["REPLICA_URL" if server == "standby" else "DATABASE_URL"]

    def on(self, server: str, sql: str, *parameters: Any) -> Any:
        """Ask ``postgres`` or ``standby`` as the superuser."""
        return ask(self.folder, self.url(server), sql, *parameters)

    def write(self, text: str) -> None:
        self.on("postgres", "CREATE TABLE IF NOT EXISTS written (what text)")
        self.on("postgres", "INSERT INTO written VALUES (%s)", text)

    def arrives(self, text: str) -> None:
        """What was written comes to the standby, sooner or later."""
        sql = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver) AND %s IN (SELECT what FROM written)"

        def has() -> bool:
            try:
                return self.on("standby", sql, text)
            except psycopg2.Error:  # it is down, starting, or has no such table yet
                return False

        wait_for(has, 40)

    def copies(self) -> int:
        """How often the standby was copied from the primary."""
        return (self.folder / "log" / "standby.log").read_text().count("copying the primary")


@pytest.fixture(scope="module")
def pair(run_dir: Path) -> Iterator[Pair]:
    pair = Pair(run_dir / "stacks" / "pair")
    result = pair.up("--replica")
    assert result.returncode == 0, result.stdout + result.stderr
    yield pair
    pair.run("down")
    shutil.rmtree(ELSEWHERE / RunFolder(pair.folder).identity, ignore_errors=True)


def test_a_standby_that_is_killed_is_started_again_and_follows(pair: Pair) -> None:
    before = pair.pid("standby")
    os.kill(before, signal.SIGKILL)
    pair.write("after the kill")
    pair.arrives("after the kill")
    assert pair.pid("standby") != before
    assert pair.copies() == 1


def test_after_a_restart_of_the_primary_the_same_standby_follows_again(pair: Pair) -> None:
    before = pair.pid("standby")
    assert pair.run("ctl", "restart", "postgres").returncode == 0
    pair.write("after the restart")
    pair.arrives("after the restart")
    assert pair.pid("standby") == before
    assert pair.copies() == 1


def test_a_standby_that_was_away_catches_up_and_one_away_for_too_long_is_made_anew(pair: Pair) -> None:
    # Given a standby that was stopped for a while
    assert pair.run("ctl", "stop", "standby").returncode == 0
    pair.write("while it was away")
    # When it starts: then it goes on where it was
    assert pair.run("ctl", "start", "standby").returncode == 0
    pair.arrives("while it was away")
    assert pair.copies() == 1
    # Given that more is written while it is away than the primary keeps for it
    assert pair.run("ctl", "stop", "standby").returncode == 0
    pair.write("long before it came back")
    for _ in range(40):
        pair.on("postgres", "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, '', 'a segment of 16 MB')")
        pair.on("postgres", "CHECKPOINT")
        if pair.on("postgres", "SELECT wal_status FROM pg_replication_slots") == "lost":
            break
    else:
        pytest.fail("the primary keeps everything for a standby that is away")
    # When it starts: then it is copied anew, and follows
    assert pair.run("ctl", "start", "standby").returncode == 0
    pair.arrives("long before it came back")
    assert pair.copies() == 2
    assert pair.on("postgres", "SELECT wal_status FROM pg_replication_slots WHERE active") == "reserved"


def test_a_recount_may_read_the_standby_unless_it_is_cut_off(pair: Pair) -> None:
    # Given a tally that is wrong on the primary, which the standby has not replayed
    database = open_database(msgspec.structs.replace(load().database, url=pair.url("postgres")), "test")
    poll = given.open_poll(database)
    database.close()
    pair.write("a poll")
    pair.arrives("a poll")
    pair.on("standby", "SELECT pg_wal_replay_pause()")
    wait_for(lambda: pair.on("standby", "SELECT pg_get_wal_replay_pause_state()") == "paused")
    pair.on("postgres", "UPDATE tallies SET votes = '{7,7,7}' WHERE poll_id = %s", poll.poll_id)
    # Then the standby's recount doesn't see it, the primary's does
    assert pair.run("recount", "--replica").stdout == "0 of the polls differ\n"
    assert poll.room_code in pair.run("recount").stdout
    # And later it does
    pair.on("standby", "SELECT pg_wal_replay_resume()")
    pair.write("a wrong tally")
    pair.arrives("a wrong tally")
    assert poll.room_code in pair.run("recount", "--replica").stdout
    # But it says nothing about old data
    pair.on("postgres", "ALTER ROLE votemill_standby NOLOGIN")
    pair.on("postgres", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
    wait_for(lambda: not pair.on("standby", "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)"))
    refused = pair.run("recount", "--replica")
    assert (refused.returncode, "cut off" in refused.stderr) == (75, True)
    pair.on("postgres", "ALTER ROLE votemill_standby LOGIN")


def test_down_and_up_keep_both_and_without_the_option_there_is_none(pair: Pair) -> None:
    # When the stack is stopped and started again
    pair.write("before down")
    copies = pair.copies()
    assert pair.run("down").returncode == 0
    wait_for(lambda: not pair.left_running())
    assert pair.up("--replica", "--synchronous").returncode == 0
    # Then the standby is the same one
    pair.arrives("before down")
    assert pair.copies() == copies
    # And, synchronous now, it must have on its disk what is committed
    assert _waits_for_the_standby(pair)
    # And without the option there is none, and no process is told of one
    assert pair.run("down").returncode == 0
    pair.environment["VOTEMILL_DATABASE__REPLICA_URL"] = "postgresql://of-another-database/votemill"
    assert pair.up().returncode == 0
    assert "standby" not in pair.run("ctl", "status").stdout
    assert "VOTEMILL_DATABASE__REPLICA_URL=''" in (pair.folder / "process.env").read_text()


def _waits_for_the_standby(pair: Pair) -> bool:
    """Whether a commit waits while the standby is frozen, and ends when it goes on."""
    waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
    standby = Victim(RunFolder(pair.folder), "standby")
    with ThreadPoolExecutor() as together:
        standby.freeze()
        try:
            written = together.submit(pair.write, "while the standby was frozen")
            wait_for(lambda: pair.on("postgres", waiting) or written.done())
            waited = not written.done()
        finally:
            standby.thaw()
        written.result(30)
    pair.arrives("while the standby was frozen")
    return waited


def test_a_replica_of_an_existing_database_is_refused(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    stack.environment["VOTEMILL_DATABASE__URL"] = "postgresql://127.0.0.1:1/votemill"
    result = stack.up("--replica")
    assert result.returncode == 1
    assert "--replica follows the stack's own PostgreSQL" in result.stdout
