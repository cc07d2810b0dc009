"""Retention as a whole: archives that are complete, votes that never wait, kills that lose nothing."""

import gzip
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import msgspec
import psycopg2
import pytest
import redis
from moto.server import ThreadedMotoServer

from models import poll_archive
from models.database import Database, open_database
from models.participant_store import register
from models.poll_archive import IncompleteArchive
from models.retention_store import RetiredPoll
from models.runtime.settings import Settings
from models.tables import TABLES
from models.vote_store import store_batches
from models.wire.commands import Registration
from models.wire.polls import PollSnapshot
from scripts.stack import ports
from tests.workers import given
from tests.workers.conftest import eventually
from workers.cache import open_redis
from workers.database_gate import DatabaseGate
from workers.fan_out import FanOut
from workers.metrics import WorkerMetrics
from workers.retention import Retention
from workers.rooms import Outcome, Rooms

BATCH = 10
NO_WAIT = "-c lock_timeout=3s"  # far more than any step of the retention takes, far less than it takes as a whole


@pytest.fixture(autouse=True)
def empty_tables(database: Database) -> None:
    with database.transaction():
        names = ", ".join(table._meta.table_name for table in TABLES)
        database.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


class Watched(threading.Event):
    """Stands for the signal to stop, which the retention waits for after every batch."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._between = between
        self.rests = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.rests += 1
        self._between()
        return self.is_set()


Make = Callable[..., Retention]


@pytest.fixture
def make(settings: Settings, archive: Path, cache: redis.Redis) -> Iterator[Make]:
    gates: list[DatabaseGate] = []

    def make(stopping: threading.Event | None = None, **changed: Any) -> Retention:
        wanted = msgspec.structs.replace(
            settings.retention, **({"archive": str(archive), "batch_rows": BATCH, "pause_s": 0} | changed)
        )
        here = msgspec.structs.replace(settings, retention=wanted)
        metrics = WorkerMetrics(here, "test")
        gates.append(DatabaseGate(open_database(here.database, "retention-tests"), metrics))
        rooms = Rooms(open_redis(here.redis), 60)
        return Retention(here, gates[-1], rooms, FanOut(open_redis(here.redis)), metrics, stopping or Watched())

    yield make
    for gate in gates:
        gate.close()


def expired_poll(database: Database, votes: int = 25) -> PollSnapshot:
    """A poll past its retention with named voters."""
    poll = given.open_poll(database)
    batch = given.votes(poll, votes)
    people = [
        Registration(poll.poll_id, vote.participant_id, f"No. {n}", f"no. {n}", given.now_us())
        for n, vote in enumerate(batch.votes)
    ]
    register(database, people)
    store_batches(database, [batch], given.now_us())
    with database.transaction():
        # Nothing has changed for long.
        database.execute("UPDATE polls SET expires_at = now(), version = 1 WHERE id = %s", (poll.poll_id,))
    return given.stored(database, poll)


def count(database: Database, table: str, poll: PollSnapshot) -> int:
    with database.transaction():
        return int(database.execute(f"SELECT count(*) FROM {table} WHERE poll_id = %s", (poll.poll_id,)).fetchone()[0])


def check_archive(file: bytes, poll: PollSnapshot) -> None:
    document, votes = poll_archive.read(io.BytesIO(file))
    assert (document["format"], document["room_code"]) == (1, poll.room_code)
    assert (document["question"], document["options"]) == (poll.question, list(poll.options))
    assert Counter(vote.option_index for vote in votes) == {o: n for o, n in enumerate(poll.votes) if n}
    assert {vote.nickname for vote in votes} == {f"No. {n}" for n in range(sum(poll.votes))}


def archived(archive: Path, poll: PollSnapshot) -> bytes:
    (file,) = archive.glob(f"*/{poll.room_code}-{poll.poll_id}-*.jsonl.gz")
    return file.read_bytes()


@pytest.mark.proves("FR-005", "E2")
def test_an_expired_poll_is_archived_whole_and_then_deleted(
    database: Database, make: Make, archive: Path, cache: redis.Redis
) -> None:
    poll, kept = expired_poll(database), given.open_poll(database)
    rooms = Rooms(cache, 60)
    for one in (poll, kept):
        assert rooms.store([one], create=True)[0].outcome is Outcome.STORED
        cache.hset(f"room:{one.room_code}:nicknames", "ada", "1")
    gone = make().round()
    assert gone == {
        "polls": 1, "polls_archived": 1, "votes": 25, "participants": 25, "poll_batches": 1, "tallies": 1,
    }  # fmt: skip
    check_archive(archived(archive, poll), poll)
    assert count(database, "votes", poll) == 0
    # And whoever gets the room code next finds nothing of it in Redis
    assert cache.keys(f"room:{poll.room_code}*") == []
    assert len(cache.keys(f"room:{kept.room_code}*")) == 2
    # And the next round finds nothing to do
    assert make().round() == {}


@pytest.mark.proves("FR-005")
def test_without_an_archive_it_is_deleted_only(database: Database, make: Make) -> None:
    expired_poll(database)
    gone = make(archive="").round()
    assert (gone["polls"], gone["polls_archived"]) == (1, 0)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3-compatible server with a bucket."""
    patched = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patched.setenv(name, "testing")
    patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", ports.any_free(), verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="polls")
    yield url
    server.stop()
    patched.undo()


@pytest.mark.proves("FR-005", "FR-006")
def test_an_older_poll_that_a_restore_brings_back_does_not_replace_its_archive() -> None:
    documents = [{"created_at": "2026-10-26T08:00:00Z", "version": version} for version in (7, 6)]
    whole, older = (RetiredPoll(1, "ABC234", document, datetime.now(UTC), archived=False) for document in documents)
    assert poll_archive.file_name(older) != poll_archive.file_name(whole)


@pytest.mark.proves("FR-005")
def test_an_s3_compatible_store_keeps_it_too(database: Database, make: Make, s3: str) -> None:
    poll = expired_poll(database)
    assert make(archive="s3://polls/of/2026", s3_endpoint=s3).round()["polls_archived"] == 1
    client = boto3.client("s3", endpoint_url=s3)
    (found,) = client.list_objects_v2(Bucket="polls")["Contents"]
    assert found["Key"].startswith("of/2026/")
    assert f"/{poll.room_code}-{poll.poll_id}-" in found["Key"]
    check_archive(client.get_object(Bucket="polls", Key=found["Key"])["Body"].read(), poll)


@pytest.mark.proves("FR-005")
def test_a_store_that_is_away_keeps_the_poll_and_the_rest_goes_on(
    database: Database, make: Make, s3: str, archive: Path
) -> None:
    poll, later = expired_poll(database), expired_poll(database)
    given_audit(database)
    gone = make(archive="s3://no-such-bucket", s3_endpoint=s3).round()
    assert (gone["failed"], gone["polls"], gone["audit_log"]) == (1, 0, 1)
    assert [count(database, "votes", one) for one in (poll, later)] == [25, 25]
    # And when there is a place again, nothing is missing
    assert make().round()["polls"] == 2
    for one in (poll, later):
        check_archive(archived(archive, one), one)


def rejected(database: Database) -> set[str]:
    with database.transaction():
        return {code for (code,) in database.execute("SELECT code FROM rejected_votes")}


def given_audit(database: Database) -> None:
    with database.transaction():
        database.execute("INSERT INTO audit_log (at, event) VALUES ('epoch', 'long ago')")


@pytest.mark.proves("FR-005")
def test_votes_that_are_fewer_than_the_totals_say_are_not_deleted(
    database: Database, make: Make, archive: Path
) -> None:
    wrong, right = expired_poll(database), expired_poll(database)
    with database.transaction():
        database.execute("UPDATE tallies SET votes = '{99,0,0}' WHERE poll_id = %s", (wrong.poll_id,))
    gone = make().round()
    assert (gone["failed"], gone["polls"]) == (1, 1)
    assert (count(database, "votes", wrong), count(database, "votes", right)) == (25, 0)
    assert not list(archive.glob(f"*/{wrong.room_code}*"))


@pytest.mark.proves("FR-005")
def test_a_dry_run_tells_what_would_go_and_changes_nothing(database: Database, make: Make, archive: Path) -> None:
    poll = expired_poll(database)
    given_audit(database)
    expected = make().expected()
    assert (expected["polls"], expected["votes"], expected["audit_log"]) == (1, 25, 1)
    assert (count(database, "votes", poll), archive.exists()) == (25, False)
    assert make().round()["votes"] == expected["votes"]


@pytest.mark.proves("FR-005")
def test_votes_flow_under_a_running_retention_and_wait_for_no_lock(
    database: Database, make: Make, settings: Settings
) -> None:
    """At every rest nothing is locked, and between two rests only a batch of rows has gone."""
    polls = [expired_poll(database) for _ in range(3)]
    here = given.open_poll(database)
    voters = open_database(settings.database, "voters")
    left: list[int] = []
    counted = 0

    def vote() -> None:
        nonlocal counted
        with voters.transaction():
            voters.execute("SET LOCAL lock_timeout = '1s'")
            # One batch with votes of a poll that stays and of those that go, as a worker merges them.
            batch = given.votes(here, 2)
            mixed = msgspec.structs.replace(batch, votes=batch.votes + tuple(given.vote(poll) for poll in polls))
            assert store_batches(voters, [mixed], given.now_us()).changed_polls
            voters.execute("LOCK TABLE votes, participants IN ROW EXCLUSIVE MODE")
            left.append(voters.execute("SELECT count(*) FROM votes WHERE poll_id <> %s", (here.poll_id,)).fetchone()[0])
        counted += 2

    stopping = Watched(vote)
    assert make(stopping).round()["polls"] == 3
    voters.close()
    assert sum(given.stored(database, here).votes) == counted >= 2 * 8
    # And who voted for a poll that was gone was told so, to be forgotten by age
    assert rejected(database) == {"poll_not_found"}
    assert all(before - after <= BATCH for before, after in itertools.pairwise(left))
    assert left[-1] == 0


@pytest.mark.proves("FR-005")
def test_nothing_is_locked_while_a_poll_is_being_archived(
    database: Database, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, here = expired_poll(database), given.open_poll(database)
    read_page = poll_archive.export_store.read_page
    voted: list[int] = []

    def reading(db: Database, *arguments: Any) -> Any:
        page = read_page(db, *arguments)
        probe = psycopg2.connect(settings.database.url, options=NO_WAIT)
        with probe.cursor() as cursor:
            cursor.execute("LOCK TABLE votes, participants, polls, tallies IN EXCLUSIVE MODE")
        probe.close()
        voted.extend(store_batches(database, [given.votes(here, 1)], given.now_us()).changed_polls)
        return page

    monkeypatch.setattr(poll_archive.export_store, "read_page", reading)
    assert make().round()["polls_archived"] == 1
    assert voted
    assert count(database, "votes", poll) == 0


def test_only_one_process_at_a_time(database: Database, make: Make) -> None:
    expired_poll(database)
    others: list[Counter[str] | None] = []
    first = make(Watched(lambda: others.append(make().round()) if not others else None))
    assert first.round()["polls"] == 1
    assert others == [None]


@pytest.mark.proves("FR-005")
def test_a_killed_run_is_taken_up_where_it_was(
    database: Database, make: Make, settings: Settings, archive: Path
) -> None:
    # Given a run that is killed while it deletes the first poll's votes
    polls = sorted((expired_poll(database, 40) for _ in range(2)), key=lambda poll: poll.poll_id)
    environment = dict(os.environ) | {
        "VOTEMILL_DATABASE__URL": settings.database.url,
        "VOTEMILL_REDIS__URL": settings.redis.url,
        "VOTEMILL_RETENTION__ARCHIVE": str(archive),
        "VOTEMILL_RETENTION__BATCH_ROWS": "10",
        "VOTEMILL_RETENTION__PAUSE_S": "0.1",
    }
    command = [sys.executable, "-m", "workers.retention"]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    eventually(lambda: 0 < count(database, "votes", polls[0]) < 40, within_s=30)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert count(database, "votes", polls[1]) == 40
    # When the next one runs, then every archive is whole and nothing is left
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "polls            2" in done.stdout
    for poll in polls:
        check_archive(archived(archive, poll), poll)
        assert count(database, "votes", poll) == count(database, "participants", poll) == 0
    assert make().expected() == dict.fromkeys(make().expected(), 0)


def test_a_file_that_was_cut_off_is_known(database: Database, make: Make, archive: Path) -> None:
    poll = expired_poll(database)
    make().round()
    lines = gzip.decompress(archived(archive, poll)).splitlines()
    with pytest.raises(IncompleteArchive):
        poll_archive.read(io.BytesIO(gzip.compress(b"\n".join(lines[:-1]))))
