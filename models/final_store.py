"""Decides when the totals of a closed poll can no longer change.

Each node tells how many batches with a poll's votes it has published by the close; workers count those they have
applied. When the two agree for every node that may have votes of the poll, its totals are final.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from models.arrays import numbers
from models.audit_store import append
from models.database import Database
from models.wire.commands import AuditEntry, NodeHeartbeat, PollFlushed

log = logging.getLogger(__name__)

UPSERT_FLUSH = """
INSERT INTO poll_flushes AS f (poll_id, node_id, closed_at_us, batches, unclear) VALUES (%s, %s, %s, %s, %s::uuid[])
ON CONFLICT (poll_id, node_id) DO UPDATE
  SET closed_at_us = excluded.closed_at_us, batches = excluded.batches, unclear = excluded.unclear
  WHERE f.closed_at_us <= excluded.closed_at_us
"""

UPSERT_NODE = """
INSERT INTO nodes AS n (node_id, name, last_seen_at_us, stopped) VALUES (%s, %s, %s, %s)
ON CONFLICT (node_id) DO UPDATE
  SET name = excluded.name, last_seen_at_us = excluded.last_seen_at_us, stopped = n.stopped OR excluded.stopped
  WHERE n.last_seen_at_us <= excluded.last_seen_at_us
"""

READ_UNSETTLED = """
SELECT id, closed_at_us, greatest(closed_at_us, changed_at_rest_us),
  coalesce((SELECT min(opened_at_us) FROM voting_periods v WHERE v.poll_id = polls.id), closed_at_us)
FROM polls WHERE state = 'closed' AND NOT final ORDER BY changed_at_rest_us LIMIT 1000
"""

READ_WAITING = """
SELECT id FROM polls WHERE state = 'closed' AND NOT final AND changed_at_rest_us < %s
ORDER BY changed_at_rest_us LIMIT 200
"""

READ_NODES = "SELECT node_id, last_seen_at_us, stopped FROM nodes"

# Every node that applied or reported something. An unclear batch that did arrive is in the count of those applied, but
# not in the count of those confirmed.
READ_ACCOUNTS = """
SELECT poll_id, node_id, coalesce(b.batches, 0) - (
    SELECT count(*) FROM applied_batches a WHERE a.batch_id = ANY(f.unclear)
  ), f.closed_at_us, f.batches
FROM poll_batches b FULL JOIN poll_flushes f USING (poll_id, node_id) WHERE poll_id = ANY(%s::bigint[])
"""

# The poll may have been opened again, or closed anew, since it was read.
SET_FINAL = """
UPDATE polls SET final = true, version = greatest(version + 1, %(now_us)s), changed_at_rest_us = %(now_us)s
WHERE id = %(poll_id)s AND state = 'closed' AND NOT final AND closed_at_us = %(closed_at_us)s
RETURNING room_code, version
"""


@dataclass(frozen=True, slots=True)
class ClosedPoll:
    """``last_change_us``: when the close, or the last vote after it, was applied. All of it microseconds."""

    poll_id: int
    closed_at_us: int
    last_change_us: int
    first_opened_at_us: int


@dataclass(frozen=True, slots=True)
class Node:
    last_seen_at_us: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of one node's batches of one poll; ``flushed_at_us`` and ``reported`` are None without a report."""

    applied: int
    flushed_at_us: int | None = None
    reported: int | None = None

    def agrees(self, closed_at_us: int) -> bool:
        """The node has reported for this close, and everything that it reported is applied."""
        return self.has_reported(closed_at_us) and self.missing == 0

    def has_reported(self, closed_at_us: int) -> bool:
        return self.flushed_at_us is not None and self.flushed_at_us >= closed_at_us

    @property
    def missing(self) -> int:
        """Batches that were reported and are not applied."""
        return max(0, (self.reported or 0) - self.applied)


@dataclass(frozen=True, slots=True)
class Patience:
    """A node without a heartbeat for ``node_timeout_us`` is dead; it is waited for during ``straggler_wait_us``.

    ``steady_since_us``: before that no heartbeat could be stored, so nobody has missed one.
    """

    node_timeout_us: int
    straggler_wait_us: int
    steady_since_us: int = 0


class LateBatches:
    """Remembers since when polls have lacked nothing but batches that living nodes have published.

    Such a poll is overdue after ``wait_us`` in which the database answered and none of its accounts changed: most
    likely its batches lie in the dead-letter queue. Whoever looks rarely, or could not look, starts anew: while the
    database is away no batch can arrive.
    """

    _break_us = 10_000_000

    def __init__(self, wait_us: int) -> None:
        self._wait_us = wait_us
        self._looked_at_us = 0
        self._steady_since_us = 0
        self._since: dict[int, tuple[object, int]] = {}

    def look(self, now_us: int) -> int:
        """Since when the database has answered at every look."""
        if now_us - self._looked_at_us > self._break_us:
            self._since = {}
            self._steady_since_us = now_us
        self._looked_at_us = now_us
        return self._steady_since_us

    def forget(self) -> None:
        """The database is away, so that nothing can arrive."""
        self._looked_at_us = 0

    def overdue(self, lacking: Mapping[int, object], now_us: int) -> set[int]:
        """Of the polls that lack batches now, with all that is known of them: those to wait for no longer."""
        since = {}
        for poll_id, known in lacking.items():
            before = self._since.get(poll_id)
            since[poll_id] = before if before is not None and before[0] == known else (known, now_us)
        self._since = since
        return {poll_id for poll_id, (_, at_us) in since.items() if now_us - at_us >= self._wait_us}


def note_flush(db: Database, flushed: PollFlushed) -> None:
    """Store a node's report. Idempotent; a report for an older close never replaces a newer one."""
    unclear = list(flushed.unclear)
    with db.transaction():
        db.execute(UPSERT_FLUSH, (flushed.poll_id, flushed.node_id, flushed.closed_at_us, flushed.batches, unclear))


def note_node(db: Database, heartbeat: NodeHeartbeat) -> None:
    """Store a heartbeat. Idempotent; a node that has stopped stays so."""
    with db.transaction():
        db.execute(UPSERT_NODE, (heartbeat.node_id, heartbeat.name, heartbeat.at_us, heartbeat.stopped))


def waiting_for(db: Database, wait_us: int) -> list[int]:
    """Ids of closed polls whose totals have not been final for longer than that; the oldest 200."""
    with db.transaction():
        return [poll_id for (poll_id,) in db.execute(READ_WAITING, (db.now_us() - wait_us,))]


def settle_finals(
    db: Database, now_us: int | None, node_timeout_us: int, straggler_wait_us: int, late: LateBatches | None = None
) -> list[int]:
    """Call the totals final of those closed polls that nothing is on its way to; their versions rise.

    Time is the database's unless ``now_us`` says otherwise. ``late`` is the caller's memory from one call to the next;
    it must ``forget`` when one failed. With it, polls whose batches never came are settled too, and a node is not taken
    for dead before it could be heard of again.

    :return: ids of the polls that became final by this call; to be published
    """
    with db.transaction():
        now_us = db.now_us() if now_us is None else now_us
        patience = Patience(node_timeout_us, straggler_wait_us, late.look(now_us) if late else 0)
        polls = [ClosedPoll(*row) for row in db.execute(READ_UNSETTLED)]
        if not polls:
            return []
        nodes = {node_id: Node(*rest) for node_id, *rest in db.execute(READ_NODES)}
        accounts = _read_accounts(db, [poll.poll_id for poll in polls])
    settled, lacking = [], {}
    for poll in polls:
        known = accounts.get(poll.poll_id, {})
        if is_settled(poll, nodes, known, patience, now_us):
            settled.append(poll)
        elif late and is_settled(poll, nodes, known, patience, now_us, reported_is_enough=True):
            lacking[poll.poll_id] = (poll, known)
    final = [poll.poll_id for poll in settled if _set_final(db, poll, now_us)]
    if late:
        for poll_id in sorted(late.overdue(lacking, now_us)):
            poll, known = lacking[poll_id]
            missing = {str(node_id): account.missing for node_id, account in known.items() if account.missing}
            if _set_final(db, poll, now_us, missing):
                final.append(poll_id)
    return final


def is_settled(
    poll: ClosedPoll,
    nodes: Mapping[UUID, Node],
    accounts: Mapping[UUID, Account],
    patience: Patience,
    now_us: int,
    *,
    reported_is_enough: bool = False,
) -> bool:
    """Every node either agrees, can't have votes of the poll, or is dead and was waited for long enough.

    ``reported_is_enough``: nor do batches matter that a living node has reported and that are not applied.
    """
    for node_id in nodes.keys() | accounts.keys():
        account = accounts.get(node_id)
        if account and account.agrees(poll.closed_at_us):
            continue
        node = nodes.get(node_id, Node(last_seen_at_us=0, stopped=True))
        seen_at_us = max(node.last_seen_at_us, patience.steady_since_us)
        if not node.stopped and now_us - seen_at_us < patience.node_timeout_us:
            if reported_is_enough and account and account.has_reported(poll.closed_at_us):
                continue
            return False
        # Died before the poll was ever open.
        if account is None and node.last_seen_at_us < poll.first_opened_at_us:
            continue
        # Counted from when the close was applied, too: after an outage the votes queue as long as the close did.
        if now_us - max(node.last_seen_at_us, poll.last_change_us) < patience.straggler_wait_us:
            return False
    return True


def _read_accounts(db: Database, poll_ids: Sequence[int]) -> dict[int, dict[UUID, Account]]:
    accounts: dict[int, dict[UUID, Account]] = {}
    for poll_id, node_id, applied, flushed_at_us, reported in db.execute(READ_ACCOUNTS, (numbers(poll_ids),)):
        accounts.setdefault(poll_id, {})[node_id] = Account(applied, flushed_at_us, reported)
    return accounts


def _set_final(db: Database, poll: ClosedPoll, now_us: int, missing: Mapping[str, int] | None = None) -> bool:
    """``missing``: batches given up, by node."""
    values = {"poll_id": poll.poll_id, "closed_at_us": poll.closed_at_us, "now_us": now_us}
    with db.transaction():
        row = db.execute(SET_FINAL, values).fetchone()
        if row is None:
            return False
        room_code, version = row
        details = {"version": str(version), "waited_us": str(now_us - poll.closed_at_us)}
        entries = [AuditEntry(now_us, "poll_final", "settle_finals", "ok", room_code, details=details)]
        if missing:
            lacked = {f"batches missing of {node_id}": str(batches) for node_id, batches in missing.items()}
            event = "final_without_all_batches"
            entries.append(AuditEntry(now_us, event, "settle_finals", "failed", room_code, details=lacked))
            log.error(event, extra={"poll_id": poll.poll_id, "batches": sum(missing.values())})
        append(db, entries)
        return True
