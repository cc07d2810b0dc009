"""Decides when the totals of a closed poll can no longer change.

Each node tells how many batches with a poll's votes it has published by the close; workers count those they have
applied. When the two agree for every node that may have votes of the poll, its totals are final.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from models.arrays import numbers
from models.audit_store import append
from models.database import Database
from models.wire.commands import AuditEntry, NodeHeartbeat, PollFlushed

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
        if self.flushed_at_us is None or self.reported is None:
            return False
        return self.flushed_at_us >= closed_at_us and self.applied >= self.reported


@dataclass(frozen=True, slots=True)
class Patience:
    """A node without a heartbeat for ``node_timeout_us`` is dead; it is waited for during ``straggler_wait_us``."""

    node_timeout_us: int
    straggler_wait_us: int


def note_flush(db: Database, flushed: PollFlushed) -> None:
    """Store a node's report. Idempotent; a report for an older close never replaces a newer one."""
    unclear = list(flushed.unclear)
    with db.transaction():
        db.execute(UPSERT_FLUSH, (flushed.poll_id, flushed.node_id, flushed.closed_at_us, flushed.batches, unclear))


def note_node(db: Database, heartbeat: NodeHeartbeat) -> None:
    """Store a heartbeat. Idempotent; a node that has stopped stays so."""
    with db.transaction():
        db.execute(UPSERT_NODE, (heartbeat.node_id, heartbeat.name, heartbeat.at_us, heartbeat.stopped))


def waiting_since(db: Database, before_us: int) -> list[int]:
    """Ids of closed polls whose totals have not been final since before that time; the oldest 200."""
    with db.transaction():
        return [poll_id for (poll_id,) in db.execute(READ_WAITING, (before_us,))]


def settle_finals(db: Database, now_us: int, node_timeout_us: int, straggler_wait_us: int) -> list[int]:
    """Call the totals final of those closed polls that nothing is on its way to; their versions rise.

    :return: ids of the polls that became final by this call; to be published
    """
    patience = Patience(node_timeout_us, straggler_wait_us)
    with db.transaction():
        polls = [ClosedPoll(*row) for row in db.execute(READ_UNSETTLED)]
        if not polls:
            return []
        nodes = {node_id: Node(*rest) for node_id, *rest in db.execute(READ_NODES)}
        accounts = _read_accounts(db, [poll.poll_id for poll in polls])
    settled = [poll for poll in polls if is_settled(poll, nodes, accounts.get(poll.poll_id, {}), patience, now_us)]
    return [poll.poll_id for poll in settled if _set_final(db, poll, now_us)]


def is_settled(
    poll: ClosedPoll, nodes: Mapping[UUID, Node], accounts: Mapping[UUID, Account], patience: Patience, now_us: int
) -> bool:
    """Every node either agrees, can't have votes of the poll, or is dead and was waited for long enough."""
    for node_id in nodes.keys() | accounts.keys():
        account = accounts.get(node_id)
        if account and account.agrees(poll.closed_at_us):
            continue
        node = nodes.get(node_id, Node(last_seen_at_us=0, stopped=True))
        if not node.stopped and now_us - node.last_seen_at_us < patience.node_timeout_us:
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


def _set_final(db: Database, poll: ClosedPoll, now_us: int) -> bool:
    values = {"poll_id": poll.poll_id, "closed_at_us": poll.closed_at_us, "now_us": now_us}
    with db.transaction():
        row = db.execute(SET_FINAL, values).fetchone()
        if row is None:
            return False
        room_code, version = row
        append(
            db,
            [
                AuditEntry(
                    at_us=now_us,
                    event="poll_final",
                    action="settle_finals",
                    outcome="ok",
                    room_code=room_code,
                    details={"version": str(version), "waited_us": str(now_us - poll.closed_at_us)},
                )
            ],
        )
        return True
