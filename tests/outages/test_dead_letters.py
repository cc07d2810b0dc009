"""A vote that the database refuses for its own sake, and what a person can do about it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import psycopg2
import pytest

from models.wire import names
from scripts.faults.guest import Guest
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.breakable import first_stack
from tests.own_stack import plain_environment

pytestmark = first_stack
ROOT = Path(__file__).resolve().parents[2]
_OPTION = 1


def dead_letters(run_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "dead-letters"), "--run-dir", str(run_dir), *words]
    return subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=60, check=False)


def listed(run_dir: Path) -> list[str]:
    """Ids of the dead letters for votes, oldest first."""
    lines = dead_letters(run_dir, "list", "--queue", "votes").stdout.splitlines()
    return [line.split()[0] for line in lines[:-1]]


@pytest.fixture
def poison(run_dir: Path, database_url: str, guest: Guest, side_room: rest.Room) -> Iterator[str]:
    """The dead letter of an acked vote; what made the database refuse it is repaired again."""
    before = set(listed(run_dir))
    with refusing(database_url, guest.participant_id):
        voted = guest.vote(side_room.code, _OPTION)
        assert voted.success, voted
        assert guest.hears("vote-rejected", 15), "the voter was not told"
    yield (set(listed(run_dir)) - before).pop()
    for left in set(listed(run_dir)) - before:
        dead_letters(run_dir, "drop", left)


@contextmanager
def refusing(database_url: str, participant_id: str) -> Iterator[None]:
    """Within the context the database refuses every vote of one participant."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            condition = f"CHECK (participant_id <> '{participant_id}')"
            cursor.execute(f"ALTER TABLE votes ADD CONSTRAINT poison {condition} NOT VALID")
            try:
                yield
            finally:
                cursor.execute("ALTER TABLE votes DROP CONSTRAINT poison")
    finally:
        connection.close()


@pytest.mark.proves("FR-038", "SC-002", "US6.4")
def test_a_requeued_vote_counts_once_the_cause_is_repaired(
    run_dir: Path, poison: str, side_room: rest.Room, node_urls: list[str]
) -> None:
    line = next(line for line in dead_letters(run_dir, "list").stdout.splitlines() if line.startswith(poison))
    assert "not_storable" in line and "poison" in line, line
    done = dead_letters(run_dir, "requeue", poison)
    assert done.returncode == 0, done.stderr
    bases = [rest.parse_base(url) for url in node_urls]
    counted = [0, 1, 0, 0]
    wait_until(
        lambda: all(list(rest.totals(base, side_room.code).votes) == counted for base in bases), 15, "not counted"
    )
    assert poison not in listed(run_dir)


@pytest.mark.proves("SC-002")
def test_a_dropped_vote_is_printed_and_gone(run_dir: Path, poison: str, guest: Guest) -> None:
    done = dead_letters(run_dir, "drop", poison)
    assert done.returncode == 0, done.stderr
    dropped = json.loads(done.stdout)
    assert dropped["headers"]["reason"] == "not_storable"
    assert guest.participant_id in dropped["body"]
    assert poison not in listed(run_dir)
    assert dead_letters(run_dir, "drop", poison).returncode == 1


def test_what_nobody_can_decode_is_kept_too(run_dir: Path, amqp_url: str) -> None:
    before = set(listed(run_dir))
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url.split(",")[0]))
    connection.channel().basic_publish("", names.VOTES_QUEUE, b"\xffno command")
    connection.close()
    wait_until(lambda: set(listed(run_dir)) > before, 15, "it is lost")
    (left,) = set(listed(run_dir)) - before
    assert "undecodable" in dead_letters(run_dir, "list").stdout
    assert dead_letters(run_dir, "drop", left).returncode == 0


@pytest.mark.parametrize("words", [["requeue"], ["drop"], ["drop", "--all", "0123456789ab"], ["bury"]])
def test_requeue_and_drop_want_to_be_told_which(run_dir: Path, words: list[str]) -> None:
    assert dead_letters(run_dir, *words).returncode == 2
