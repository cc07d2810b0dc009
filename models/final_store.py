"""Decides when the totals of a closed poll can no longer change.

Each node tells how many batches with a poll's votes it has published by the close; workers count those they have
applied. Where the two agree, nothing of that node is on its way. For whatever else, a node that died above all, the
proof is that the queue of votes has been worked off since the node can have published the last of them
(``models.drain_store``). No time that passes is a proof.
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

# A report that says the same again keeps its time: what it tells of was published by then, and a proof that takes
# longer than the pause between two reminders would otherwise never come.
UPSERT_FLUSH = """
INSERT INTO poll_flushes AS f (poll_id, node_id, closed_at_us, batches, unclear, reported_at_us)
VALUES (%s, %s, %s, %s, %s::uuid[], coalesce(%s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
ON CONFLICT (poll_id, node_id) DO UPDATE
  SET closed_at_us = excluded.closed_at_us, batches = excluded.batches, unclear = excluded.unclear,
    reported_at_us = CASE
      WHEN (f.closed_at_us, f.batches, f.unclear) = (excluded.closed_at_us, excluded.batches, excluded.unclear)
      THEN coalesce(f.reported_at_us, excluded.reported_at_us) ELSE excluded.reported_at_us END
  WHERE f.closed_at_us <= excluded.closed_at_us
"""

# When it was heard, by the one clock that decides; what a node takes for the time says nothing about its life.
UPSERT_NODE = """
INSERT INTO nodes AS n (node_id, name, last_seen_at_us, stopped)
VALUES (%s, %s, coalesce(%s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), %s)
ON CONFLICT (node_id) DO UPDATE
  SET name = excluded.name, last_seen_at_us = greatest(n.last_seen_at_us, excluded.last_seen_at_us),
    stopped = n.stopped OR excluded.stopped
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

READ_LONGEST = """
SELECT extract(epoch FROM clock_timestamp()) - min(greatest(closed_at_us, changed_at_rest_us)) / 1000000.0
FROM polls WHERE state = 'closed' AND NOT final
"""

READ_NODES = "SELECT node_id, last_seen_at_us, stopped FROM nodes"

# Every node that applied or reported something. An unclear batch that did arrive is in the count of those applied, but
# not in the count of those confirmed.
READ_ACCOUNTS = """
SELECT poll_id, node_id, coalesce(b.batches, 0) - u.applied, f.closed_at_us, f.batches,
  coalesce(cardinality(f.unclear), 0) - u.applied, f.reported_at_us
FROM poll_batches b FULL JOIN poll_flushes f USING (poll_id, node_id)
CROSS JOIN LATERAL (SELECT count(*) AS applied FROM applied_batches a WHERE a.batch_id = ANY(f.unclear)) AS u
WHERE poll_id = ANY(%s::bigint[])
"""

# The poll may have been opened again, or closed anew, since it was read. One whose row is locked has its turn later.
SET_FINAL = """
UPDATE polls SET final = true, version = greatest(version + 1, %(now_us)s), changed_at_rest_us = %(now_us)s
WHERE id = (SELECT id FROM polls WHERE id = %(poll_id)s FOR NO KEY UPDATE SKIP LOCKED)
  AND state = 'closed' AND NOT final AND closed_at_us = %(closed_at_us)s
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
    """What is known of one node's batches of one poll.

    ``flushed_at_us``, ``reported`` and ``reported_at_us`` are None without a report. ``unclear``: batches that it does
    not know to be in the queue, as far as they are not applied.
    """

    applied: int
    flushed_at_us: int | None = None
    reported: int | None = None
    unclear: int = 0
    reported_at_us: int | None = None

    def agrees(self, closed_at_us: int) -> bool:
        """The node has reported for this close, and everything that may have come of it is applied."""
        return self.has_reported(closed_at_us) and self.missing == 0 and self.unclear == 0

    def has_reported(self, closed_at_us: int) -> bool:
        return self.flushed_at_us is not None and self.flushed_at_us >= closed_at_us

    @property
    def missing(self) -> int:
        """Batches that were reported and are not applied."""
        return max(0, (self.reported or 0) - self.applied)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the tables. All of it microseconds, by the database's clock.

    A node without a heartbeat for ``node_timeout_us`` is dead; what it, or a node that only seems dead, has admitted
    can be published no later than ``straggler_wait_us`` after its last heartbeat and the close. Every batch that was
    published before ``votes_drained_us`` has been decided. ``steady_since_us``: before that no heartbeat could be
    stored, so nobody has missed one. ``nodes_known``: no node is missing in the tables.
    """

    node_timeout_us: int
    straggler_wait_us: int
    votes_drained_us: int = 0
    steady_since_us: int = 0
    nodes_known: bool = True


@dataclass(frozen=True, slots=True)
class Outlook:
    """``final``: ids of the polls that became so. Others wait for proof that the queue of votes, or, when all else is
    known, the hosts' queue has been worked off."""

    final: tuple[int, ...] = ()
    waits_for_votes: bool = False
    waits_for_hosts: bool = False


def note_flush(db: Database, flushed: PollFlushed, now_us: int | None = None) -> None:
    """Store a node's report, as of now by the database's clock. Idempotent; one for an older close changes nothing."""
    values = (flushed.poll_id, flushed.node_id, flushed.closed_at_us, flushed.batches, list(flushed.unclear), now_us)
    with db.transaction():
        db.execute(UPSERT_FLUSH, values)


def note_node(db: Database, heartbeat: NodeHeartbeat, now_us: int | None = None) -> None:
    """A node was heard of now, by the database's clock. Idempotent; a node that has stopped stays so."""
    with db.transaction():
        db.execute(UPSERT_NODE, (heartbeat.node_id, heartbeat.name, now_us, heartbeat.stopped))


def database_time_us(db: Database) -> int:
    """Microseconds since the epoch by the database's clock."""
    with db.transaction():
        return db.now_us()


def waiting_for(db: Database, wait_us: int) -> list[int]:
    """Ids of closed polls whose totals have not been final for longer than that; the oldest 200."""
    with db.transaction():
        return [poll_id for (poll_id,) in db.execute(READ_WAITING, (db.now_us() - wait_us,))]


def longest_wait_s(db: Database) -> float:
    """For how long the totals of a closed poll have not been final, of the one that has waited longest."""
    with db.transaction():
        return float(db.execute(READ_LONGEST).fetchone()[0] or 0)


def settle_finals(db: Database, evidence: Evidence, now_us: int) -> Outlook:
    """Call the totals final of those closed polls that nothing is on its way to; their versions rise."""
    with db.transaction():
        polls = [ClosedPoll(*row) for row in db.execute(READ_UNSETTLED)]
        if not polls:
            return Outlook()
        nodes = {node_id: Node(*rest) for node_id, *rest in db.execute(READ_NODES)}
        accounts = _read_accounts(db, [poll.poll_id for poll in polls])
    final: list[int] = []
    waits_for_votes = waits_for_hosts = False
    for poll in polls:
        known = accounts.get(poll.poll_id, {})
        ends_us = last_published_us(poll, nodes, known, evidence, now_us)
        if ends_us is None or ends_us >= now_us:
            continue
        if ends_us >= evidence.votes_drained_us:
            waits_for_votes = True
        elif not evidence.nodes_known:
            waits_for_hosts = True
        elif _set_final(db, poll, now_us, {node_id: one.missing for node_id, one in known.items() if one.missing}):
            final.append(poll.poll_id)
    return Outlook(tuple(final), waits_for_votes, waits_for_hosts)


def last_published_us(
    poll: ClosedPoll, nodes: Mapping[UUID, Node], accounts: Mapping[UUID, Account], evidence: Evidence, now_us: int
) -> int | None:
    """From when on nothing of the poll can have been published, as far as it is not known to be applied.

    -1 when all of it is; None while a living node has not reported.
    """
    ends_us = -1
    for node_id in nodes.keys() | accounts.keys():
        account = accounts.get(node_id)
        if account and account.agrees(poll.closed_at_us):
            continue
        if account and account.has_reported(poll.closed_at_us) and account.reported_at_us is not None:
            ends_us = max(ends_us, account.reported_at_us)
            continue
        node = nodes.get(node_id, Node(last_seen_at_us=0, stopped=True))
        seen_at_us = max(node.last_seen_at_us, evidence.steady_since_us)
        if not node.stopped and now_us - seen_at_us < evidence.node_timeout_us:
            return None
        # Died before the poll was ever open.
        if account is None and node.last_seen_at_us + evidence.straggler_wait_us < poll.first_opened_at_us:
            continue
        ends_us = max(ends_us, max(node.last_seen_at_us, poll.last_change_us) + evidence.straggler_wait_us)
    return ends_us


def _read_accounts(db: Database, poll_ids: Sequence[int]) -> dict[int, dict[UUID, Account]]:
    accounts: dict[int, dict[UUID, Account]] = {}
    for poll_id, node_id, *rest in db.execute(READ_ACCOUNTS, (numbers(poll_ids),)):
        accounts.setdefault(poll_id, {})[node_id] = Account(*rest)
    return accounts


def _set_final(db: Database, poll: ClosedPoll, now_us: int, missing: Mapping[UUID, int]) -> bool:
    """``missing``: batches that are in the queue no more and were not applied, by node: they are dead letters."""
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
