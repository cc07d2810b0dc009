"""Reads that a standby may answer: from there while it keeps up, from the primary otherwise.

Only what a person looks at goes this way. What others build on (a room's snapshot, choices, roles) is read from the
primary.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
from peewee import PeeweeException

from models import poll_store, standby
from models.database import Database, DatabaseUnavailable, open_database
from models.runtime.settings import Settings
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.periodic import Periodic

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_EVERY_S = 1.0
_SHARE_OF_WAIT = 0.2  # what a standby that hangs may cost, of the time that a node waits for the answer


class _Unfit(Exception):
    """The standby is not to be read, or not for this."""


class ReplicaReads:
    """Reads of single polls. Without ``database.replica_url`` all of them go to the primary.

    A look once a second, on a thread of its own, tells whether the standby may be read. A read that fails there closes
    it to all others until the next look, so that a hung standby holds up only those who are just reading from it.
    """

    def __init__(self, settings: Settings, gate: DatabaseGate, metrics: WorkerMetrics, name: str) -> None:
        self._gate = gate
        self._metrics = metrics
        self._max_lag_s = settings.database.replica_max_lag_s
        self._standby = _open_standby(settings, name)
        self._cluster: int | None = None
        self._unfit: str | None = "away"  # until the first look
        self._looking = Periodic("replica", _LOOK_EVERY_S, self._look, metrics)

    def use(self, settings: Settings) -> None:
        """Another address or account, for connections that are made from now on. One more standby, or none any more,
        needs a restart.

        :raises psycopg2.Error: libpq doesn't understand the address; nothing is changed
        """
        if self._standby is not None and settings.database.replica_url:
            self._standby.use(settings.database.replica_url)

    def start(self) -> None:
        if self._standby is not None:
            self._looking.start()

    def close(self) -> None:
        self._looking.close()
        if self._standby is not None:
            self._standby.close()

    def read(self, poll_id: int, least_version: int | None, work: Callable[[Database], T]) -> T:
        """Run ``work``, which reads one poll, on data of at least that version; None means: as new as they can be.

        :raises DatabaseUnavailable: the primary's; nothing fails for want of the standby
        """
        if self._standby is None:
            return self._gate.call(work)
        try:
            result = self._read_standby(self._standby, poll_id, least_version, work)
        except _Unfit:
            self._metrics.count("reads.primary")
            return self._gate.call(work)
        self._metrics.count("reads.replica")
        return result

    def _read_standby(self, db: Database, poll_id: int, least_version: int | None, work: Callable[[Database], T]) -> T:
        if self._unfit is not None or least_version is None:
            raise _Unfit
        try:
            with db.transaction():
                if not self._keeps_up(standby.read_lag_s(db)):
                    raise _Unfit
                # Each statement sees what is replayed by then, so what is read next is of this version or newer.
                version = poll_store.read_version(db, poll_id)
                if version is None or version < least_version:
                    raise _Unfit
                return work(db)
        except (DatabaseUnavailable, PeeweeException) as error:
            # Also what looks like the data's fault: the primary has the last word.
            self._note("away", error)
            raise _Unfit from error

    def _look(self) -> None:
        assert self._standby is not None
        try:
            with self._standby.transaction():
                lag_s, cluster = standby.read_lag_s(self._standby), standby.read_cluster(self._standby)
            self._demand_kinship(cluster)
        except (DatabaseUnavailable, PeeweeException) as error:
            self._note("away", error)
            return
        if lag_s is None:
            self._standby.renew()  # it may have been promoted, and the address lead to its successor by now
        else:
            self._metrics.gauge("replica.lag_s", lag_s)
        self._note(None if self._keeps_up(lag_s) else "lagging", "cut off" if lag_s is None else f"{lag_s:.1f} s")

    def _demand_kinship(self, cluster: int) -> None:
        """Another database's polls have the same ids: a wrong address must not export other people's votes."""
        if self._cluster is None:
            self._cluster = self._gate.call(standby.read_cluster)
        if cluster != self._cluster:
            raise DatabaseUnavailable("refused", "database.replica_url is no standby of database.url")

    def _keeps_up(self, lag_s: float | None) -> bool:
        return lag_s is not None and lag_s <= self._max_lag_s

    def _note(self, unfit: str | None, why: object) -> None:
        if unfit != self._unfit:
            level = logging.WARNING if unfit else logging.INFO
            log.log(level, "replica_changed", extra={"state": unfit or "in use", "reason": str(why)})
        self._unfit = unfit
        self._metrics.gauge("replica.in_use", int(unfit is None))


def _open_standby(settings: Settings, name: str) -> Database | None:
    if not settings.database.replica_url:
        return None
    wait_s = settings.broker.reply_timeout_s * _SHARE_OF_WAIT
    impatient = msgspec.structs.replace(
        settings.database,
        url=settings.database.replica_url,
        pool_wait_s=wait_s,
        connect_timeout_s=wait_s,
        statement_timeout_s=wait_s,
        call_deadline_s=wait_s,
    )
    return open_database(impatient, name, writable=False)
