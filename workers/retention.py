"""Archives and deletes what is kept no longer: expired polls, participants, audit entries, bookkeeping of batches.

The host workers do it every ten minutes. ``python -m workers.retention [--dry-run]`` does it at once, or tells what it
would do; exit code 0 when all is done, 1 when something could not be archived, 75 when the database or Redis is away or
another process is at it.
"""

import argparse
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import IO, TypeVar
from uuid import UUID

import msgspec
import redis

from models import poll_archive, retention_store
from models.database import Database, DatabaseUnavailable, open_database
from models.poll_archive import IncompleteArchive
from models.retention_store import RetiredPoll
from models.runtime import logs
from models.runtime.settings import DatabaseSettings, Settings, load_or_exit
from models.sole_run import sole_run
from models.wire import names
from workers.archives import ArchiveUnavailable, open_archive
from workers.cache import open_redis
from workers.database_gate import DatabaseGate
from workers.fan_out import Emission, FanOut
from workers.metrics import WorkerMetrics
from workers.rooms import Rooms

log = logging.getLogger(__name__)

T = TypeVar("T")

EX_TEMPFAIL = 75  # sysexits.h
_LOCK_KEY = 6_864_554
_LONGEST_LIFE = 2  # of a poll in use, as a multiple of the others' retention
_RETIRED_AT_ONCE = 20  # their rows are locked together, for some milliseconds
_DAY_US = 86_400 * 1_000_000
_BATCHES_KEPT_US = 3 * _DAY_US  # far longer than a message can wait in a queue
_COUNTING_S = 600.0  # a dry run reads whole tables


def _now(work: Callable[..., T]) -> Callable[[Database], T]:
    """``work(db, now_us=...)``, by the database's clock in the same transaction."""
    return _at(0, "now_us", work)


def _before(kept_us: int, work: Callable[..., T]) -> Callable[[Database], T]:
    """``work(db, before_us=...)`` likewise: since when what is kept for so long is kept."""
    return _at(kept_us, "before_us", work)


def _at(ago_us: int, name: str, work: Callable[..., T]) -> Callable[[Database], T]:
    def in_one_transaction(db: Database) -> T:
        with db.transaction():
            return work(db, **{name: db.now_us() - ago_us})

    return in_one_transaction


class Stopped(Exception):
    """The process ends; what is left is done by the next run."""


class Retention:
    """One round at a time over all processes; it may be killed at any point and goes on there the next time.

    Between two batches nothing is locked and it rests: for as long as the batch took, at least ``pause_s``.
    """

    EVERY_S = 600.0

    def __init__(
        self,
        settings: Settings,
        gate: DatabaseGate,
        rooms: Rooms,
        fan_out: FanOut,
        metrics: WorkerMetrics,
        stopping: threading.Event,
    ) -> None:
        self._fan_out = fan_out
        self._settings = settings
        self.use(settings.database)
        self._gate = gate
        self._rooms = rooms
        self._metrics = metrics
        self._stopping = stopping
        self._batch_rows = settings.retention.batch_rows
        self._most_days = settings.poll.retention_days * _LONGEST_LIFE
        self._archive = open_archive(settings.retention)
        self._check: Callable[[], None] = lambda: None
        self._gone: Counter[str] = Counter()
        self._kept_back: set[int] = set()

    def use(self, database: DatabaseSettings) -> None:
        """For the connection of its own that each round makes."""
        self._database = database

    def round(self) -> Counter[str] | None:
        """How much of what went; ``failed`` is the number of polls that could not be archived. None while another
        process is at it.

        :raises DatabaseUnavailable, redis.RedisError: the next round goes on
        """
        self._gone, self._kept_back = Counter(), set()
        with sole_run(self._database, _LOCK_KEY, "votemill-retention") as check:
            if check is None:
                return None
            self._check = check
            try:
                self._polls()
                self._participants()
                self._bookkeeping()
            except Stopped:
                log.info("retention_stopped")
        if self._gone:
            log.info("retention_done", extra=dict(self._gone))
        return self._gone

    def _polls(self) -> None:
        try:
            self._finish()  # what an earlier round has left
            while self._batch(_now(partial(retention_store.retire, limit=_RETIRED_AT_ONCE, most_days=self._most_days))):
                self._finish()
        except ArchiveUnavailable as error:
            # No more polls are retired: those that are wait until the archive is there again.
            self._failed(error)

    def _finish(self) -> None:
        after = 0
        while poll := self._gate.call(partial(retention_store.next_retired, after=after)):
            after = poll.poll_id
            if poll.poll_id in self._kept_back:
                continue
            # Nodes and workers take what Redis has for the poll that now has this code.
            self._rooms.forget(poll.room_code)
            # Whoever is in its room is put out; a node that misses this learns of it when the next vote is refused.
            gone = {"roomCode": poll.room_code, "pollId": str(poll.poll_id)}
            self._fan_out.emit([Emission(names.POLL_RETIRED, gone, names.nodes_room(poll.room_code))])
            try:
                self._keep(poll)
            except IncompleteArchive as error:
                self._kept_back.add(poll.poll_id)
                self._failed(error)
                continue
            self._delete(poll)

    def _keep(self, poll: RetiredPoll) -> None:
        if self._archive is None or poll.archived:
            return

        def write(out: IO[bytes]) -> None:
            self._gate.call(lambda db: poll_archive.write(db, poll, out))
            # Another process, that has the lock by now, may have begun to delete what was read.
            self._check()

        place = self._archive.keep(poll_archive.file_name(poll), write)
        self._gate.call(_now(partial(retention_store.note_archived, poll_id=poll.poll_id, place=place)))
        self._count("polls_archived", 1)
        self._metrics.count("retention.archived")

    def _delete(self, poll: RetiredPoll) -> None:
        for table in retention_store.LEFT_BEHIND:
            delete = partial(
                retention_store.delete_left_behind, poll_id=poll.poll_id, table=table, limit=self._batch_rows
            )
            self._batches(table, delete)
        if self._gate.call(_now(partial(retention_store.forget_retired, poll=poll))):
            self._count("polls", 1)
            self._metrics.count("retention.polls")

    def _participants(self) -> None:
        kept_us = self._settings.retention.participants_days * _DAY_US
        after: UUID | None = None
        while True:
            next_ones = partial(retention_store.forget_participants, after=after, limit=self._batch_rows)
            deleted, after = self._batch(_before(kept_us, next_ones))
            self._count("participants", deleted)
            self._metrics.count("retention.rows", deleted)
            if after is None:
                return

    def _bookkeeping(self) -> None:
        for table, kept_us in self._kept_us().items():
            forget = partial(retention_store.forget, table=table, limit=self._batch_rows)
            self._batches(table, _before(kept_us, forget))
        self._gate.call(_before(_BATCHES_KEPT_US, retention_store.forget_nodes))

    def _kept_us(self) -> dict[str, int]:
        audit_us = self._settings.audit.retention_days * _DAY_US
        return {"applied_batches": _BATCHES_KEPT_US, "rejected_votes": _BATCHES_KEPT_US, "audit_log": audit_us}

    def expected(self) -> Counter[str]:
        """What a round would delete, by the tables as they are now. Changes nothing."""
        participants_us = self._settings.retention.participants_days * _DAY_US
        polls, votes = self._gate.call(_now(partial(retention_store.count_expired, most_days=self._most_days)))
        retired = self._gate.call(retention_store.count_retired)
        participants = self._gate.call(_before(participants_us, retention_store.count_participants))
        found = Counter({"polls": polls + retired, "votes": votes, "participants": participants})
        for table, kept_us in self._kept_us().items():
            found[table] = self._gate.call(_before(kept_us, partial(retention_store.count_old, table=table)))
        return found

    def _batches(self, what: str, delete: Callable[[Database], int]) -> None:
        """Until a batch is not full: rows may come in as fast as they go, such as notes on votes for a poll that is
        gone, and those have time until the next round."""
        deleted = self._batch_rows
        while deleted == self._batch_rows:
            deleted = self._batch(delete)
            self._count(what, deleted)
            self._metrics.count("retention.rows", deleted)

    def _batch(self, work: Callable[[Database], T]) -> T:
        """One short transaction, then a rest."""
        began = time.monotonic()
        result = self._gate.call(work)
        if self._stopping.wait(max(self._settings.retention.pause_s, time.monotonic() - began)):
            raise Stopped
        return result

    def _count(self, what: str, n: int) -> None:
        if n:
            self._gone[what] += n

    def _failed(self, error: Exception) -> None:
        self._count("failed", 1)
        self._metrics.count("retention.failed")
        log.error("retention_failed", extra={"error": str(error)})


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/retention", description="Archive and delete what is kept no longer.")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")
    dry = parser.parse_args().dry_run
    settings = load_or_exit()
    logs.configure(settings.log, service="votemill-retention", instance="retention", environment=settings.environment)
    limits = {"statement_timeout_s": _COUNTING_S, "call_deadline_s": _COUNTING_S} if dry else {}
    metrics = WorkerMetrics(settings, "retention")
    gate = DatabaseGate(
        open_database(msgspec.structs.replace(settings.database, **limits), "votemill-retention"), metrics
    )
    client = open_redis(settings.redis)
    rooms = Rooms(client, settings.redis.room_ttl_s)
    retention = Retention(settings, gate, rooms, FanOut(client), metrics, threading.Event())
    try:
        found = retention.expected() if dry else retention.round()
    except (DatabaseUnavailable, redis.RedisError) as error:
        print(f"retention: {error}", file=sys.stderr)
        return EX_TEMPFAIL
    finally:
        gate.close()
        metrics.flush()
        metrics.close()
    if found is None:
        print("retention: another process is at it", file=sys.stderr)
        return EX_TEMPFAIL
    return _report(settings, found, dry)


def _report(settings: Settings, found: Counter[str], dry: bool) -> int:
    kept = f"a copy in {settings.retention.archive}" if settings.retention.archive else "no copy"
    print(f"{'would go' if dry else 'gone'}, with {kept} of polls:")
    for what, n in sorted(found.items()):
        print(f"{what.replace('_', ' '):<16} {n}")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
