"""A node is killed while people vote: every page finds the other one, and each vote is counted once."""

import os
import signal
import time
from pathlib import Path

import psycopg2
import pytest

from tests.breakable import addresses, base_url, database_url, run_dir, second_stack
from tests.web.pages import RIGHT_WITHIN_S, ParticipantPage

# A node is killed.
__all__ = ["addresses", "base_url", "database_url", "run_dir"]

pytestmark = second_stack


@pytest.mark.proves("FR-029")
def test_a_node_killed_in_mid_vote_loses_no_vote_and_counts_none_twice(
    create_poll, new_page, run_dir: Path, database_url: str
):
    # Given a host and participants over two nodes, phones and a desktop
    host = create_poll("Tea or coffee?", ("Tea", "Coffee", "Water"))
    host.opens_voting()
    people = [
        ParticipantPage(new_page(*size)).joins(host.room_code, name)
        for name, size in (("Ada", (390, 780)), ("Grace", (320, 640)), ("Joan", (390, 780)), ("Mary", (1366, 768)))
    ]
    for person in people:
        person.votes(0)
    # When a node is killed while they move to other options
    for person, option in zip(people, (1, 1, 2, 2), strict=True):
        person.watches_for(option)
    victim = int((run_dir / "pids" / "node-1.pid").read_text())
    for person in people[:2]:
        person.taps(1)
    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    for person in people[2:]:
        person.taps(2)
    # Then all pages are right, soon, and the database has each vote once
    for person, option in zip(people, (1, 1, 2, 2), strict=True):
        person.sees_state("vote-state", "counted")
        person.sees_own_vote(option)
    host.sees_totals(0, 2, 2)
    host.closes_voting()
    for person in people:
        person.sees_state("poll-state", "final")
    took_s = [person.right_at() - killed_at for person in people]
    assert min(took_s) < RIGHT_WITHIN_S, took_s
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT option_index FROM votes JOIN polls ON polls.id = poll_id WHERE room_code = %s ORDER BY 1",
            (host.room_code,),
        )
        assert [row[0] for row in cursor.fetchall()] == [1, 1, 2, 2]
    connection.close()
