"""A database restored to an earlier moment: what browsers were shown since is taken back, by something newer."""

from __future__ import annotations

import subprocess

import psycopg2
import pytest

from scripts.backups.drill import Screen
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.run_folder import ROOT
from tests.breakable import first_stack
from tests.own_stack import plain_environment

pytestmark = first_stack

# In the order in which they may be put back.
TABLES = {
    "polls": "id",
    "hosts": "poll_id",
    "voting_periods": "poll_id",
    "state_changes": "poll_id",
    "tallies": "poll_id",
    "votes": "poll_id",
}


def keep(stack: RunningStack, room_code: str) -> None:
    """Remember a poll as it is now."""
    copies = [
        f"CREATE TABLE saved.{table} AS SELECT * FROM {table} WHERE {key} = (SELECT id FROM polls WHERE room_code = %s)"
        for table, key in TABLES.items()
    ]
    run(stack, ["DROP SCHEMA IF EXISTS saved CASCADE", "CREATE SCHEMA saved"])
    run(stack, copies, room_code)


def put_back(stack: RunningStack) -> None:
    """What a restore leaves: the rows of then, and nothing of what came after."""
    gone = [f"DELETE FROM {table} WHERE {key} = (SELECT id FROM saved.polls)" for table, key in TABLES.items()]
    back = [f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM saved.{table}" for table in TABLES]
    run(stack, [*reversed(gone), *back, "DROP SCHEMA saved CASCADE"])


def run(stack: RunningStack, statements: list[str], *parameters: str) -> None:
    connection = psycopg2.connect(stack.dsn)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, parameters)
    connection.close()


@pytest.mark.proves("FR-006", "SC-008")
def test_browsers_accept_the_results_and_the_state_of_an_earlier_moment(stack: RunningStack) -> None:
    # Given a screen that shows a closed poll's final totals
    screen = Screen(stack)
    screen.vote(0)
    keep(stack, screen.room.code)
    screen.vote(1)
    screen.close_poll()
    closed = rest.totals(stack.nodes[0], screen.room.code)
    # When the database is restored to before the last vote and the close
    put_back(stack)
    command = [ROOT / "scripts" / "after-restore", "--run-dir", stack.folder.path]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # Then it shows what is stored, in a newer version
    screen.shows([1, 0, 0, 0])
    for node in stack.nodes:
        told = rest.totals(node, screen.room.code)
        assert (told.votes, told.final, told.version > closed.version) == ((1, 0, 0, 0), False, True), node
    # And voting, which is open again, goes on from there
    screen.vote(2)
    screen.guest.close()
