"""A database restored to an earlier moment: what browsers were shown since is taken back, by something newer."""

from __future__ import annotations

import subprocess

import psycopg2
import pytest

from models.wire import names
from scripts.backups.drill import Screen
from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
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
    "participants": "poll_id",
}
LEFT_BEHIND = ("tallies", "votes", "participants", "poll_batches")
SOON_S = 60.0


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


def lose(stack: RunningStack, room_code: str) -> None:
    """What a restore leaves of a poll that was made after its moment."""
    gone = [f"DELETE FROM {table} WHERE poll_id = (SELECT id FROM polls WHERE room_code = %s)" for table in LEFT_BEHIND]
    run(stack, [*gone, "DELETE FROM polls WHERE room_code = %s"], room_code)


def after_restore(stack: RunningStack) -> None:
    command = [ROOT / "scripts" / "after-restore", "--run-dir", stack.folder.path]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def run(stack: RunningStack, statements: list[str], *parameters: str) -> list[tuple[object, ...]]:
    """Rows of the last one."""
    connection = psycopg2.connect(stack.dsn)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, parameters)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


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
    after_restore(stack)
    # Then it shows what is stored, in a newer version
    screen.shows([1, 0, 0, 0])
    for node in stack.nodes:
        told = rest.totals(node, screen.room.code)
        assert (told.votes, told.final, told.version > closed.version) == ((1, 0, 0, 0), False, True), node
    # And voting, which is open again, goes on from there
    screen.vote(2)
    screen.guest.close()


@pytest.mark.proves("FR-004", "FR-006")
def test_pages_of_a_lost_poll_are_told_and_who_joined_another_one_since_is_registered_again(
    stack: RunningStack,
) -> None:
    # Given a poll in which votes can't be changed, and what came after a moment: a participant with a vote, and a poll
    node = stack.nodes[0]
    room = rest.open_poll(node, "Once?", ["yes", "no"], voteChange=False)
    keep(stack, room.code)
    late, stray = Guest(node), Guest(node)
    assert late.join(room.code, "Latecomer").success and late.vote(room.code, 0).success
    wait_until(lambda: rest.totals(node, room.code).votes == (1, 0), SOON_S, "the vote was not counted")
    lost = rest.open_poll(node, "Lost?", ["yes", "no"])
    assert stray.join(lost.code, "Stray").success and stray.vote(lost.code, 0).success
    wait_until(lambda: rest.totals(node, lost.code).votes == (1, 0), SOON_S, "the vote was not counted")
    # When the database is restored to that moment
    put_back(stack)
    lose(stack, lost.code)
    after_restore(stack)
    # Then the page of the lost poll is told, without having done anything, and refused clearly
    assert stray.hears(names.POLL_GONE, SOON_S)
    assert stray.vote(lost.code, 1).body["code"] == "poll_not_found"
    # And the other participant is known again by its name, without the vote that is lost
    stored = "SELECT nickname FROM participants WHERE poll_id = (SELECT id FROM polls WHERE room_code = %s)"
    wait_until(lambda: run(stack, [stored], room.code) == [("Latecomer",)], SOON_S, "it was not registered again")
    resumed = late.join(room.code, "Latecomer", late.token)
    assert (resumed.body["reconnected"], resumed.body["previousVote"]) == (True, None)
    # And may cast it anew
    assert late.vote(room.code, 1).success
    wait_until(lambda: rest.totals(node, room.code).votes == (0, 1), SOON_S, "the new vote was not counted")
    late.close()
    stray.close()
