"""Creates polls, changes their state, and reads them as snapshots."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from models.arrays import numbers
from models.audit_store import append
from models.database import Database
from models.state_log import Timeline, fold
from models.times import as_us, at
from models.wire.commands import AuditEntry, ChangeState, ClaimHost, CreatePoll, RevokeHosts
from models.wire.polls import BrowserRole, PollRules, PollSnapshot, PollState, Results

# Without I, O, 0 and 1, which people misread.
CODE_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # pragma: allowlist secret
CODE_LENGTH = 6
_CODE_TRIES = 20

# Of n polls lost by a restore, the next one meets an id with the probability n / 2**52.
_POLL_IDS = 2**52

_DAY_US = 86_400_000_000


class PollMissing(Exception):
    """There is no such poll: deleted, or it never was. Never valid."""


class HostRevoked(Exception):
    """Whoever asked was the poll's host once, and isn't any more. Never valid."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """``changed`` is False when the command made no difference: a repeat, or the state held already.

    ``revoked``: it was not applied, since its host isn't one any more.
    """

    poll: PollSnapshot
    previous_state: PollState
    changed: bool
    revoked: bool = False


# Nothing comes back when the command, the room code or the id is known already. Not the column's own sequence: it goes
# back with a restore, and would give the ids of lost polls to others, for which their tokens and votes were then good.
INSERT_POLL = """
INSERT INTO polls (id, command_id, room_code, question, options, version, created_at, expires_at, state_changed_at_us,
  changed_at_rest_us, creator_address, results, vote_change, close_after_s, max_participants)
OVERRIDING SYSTEM VALUE
VALUES (%(id)s, %(command_id)s, %(room_code)s, %(question)s, %(options)s, %(now_us)s, %(now)s, %(expires)s, %(now_us)s,
  %(now_us)s, %(creator_address)s, %(results)s, %(vote_change)s, %(close_after_s)s, %(max_participants)s)
ON CONFLICT DO NOTHING RETURNING id
"""

INSERT_TALLY = "INSERT INTO tallies (poll_id, votes) VALUES (%s, array_fill(0::bigint, ARRAY[%s]))"

# The lock orders a claim before or behind a revocation; behind it, one of a lower generation is void.
INSERT_HOST = """
INSERT INTO hosts (poll_id, browser_id)
SELECT id, %(browser_id)s FROM polls
WHERE id = %(poll_id)s AND (token_generation <= %(generation)s OR %(generation)s = 0) FOR NO KEY UPDATE
ON CONFLICT DO NOTHING RETURNING poll_id
"""

RAISE_GENERATION = """
UPDATE polls SET token_generation = %(generation)s,
  version = CASE WHEN final THEN version ELSE greatest(version + 1, %(now_us)s) END, changed_at_rest_us = %(now_us)s
WHERE id = %(poll_id)s AND token_generation < %(generation)s RETURNING id
"""

FORGET_HOSTS = "DELETE FROM hosts WHERE poll_id = %s"

READ_GENERATION = "SELECT token_generation FROM polls WHERE id = %s"

# A new host is part of the snapshot, so it needs a version of its own; but a close has one final version. Whoever keeps
# snapshots tells those of one version apart by their hosts.
RAISE_VERSION = """
UPDATE polls SET version = CASE WHEN final THEN version ELSE greatest(version + 1, %(now_us)s) END,
  changed_at_rest_us = %(now_us)s
WHERE id = %(poll_id)s
"""

LOCK_POLL = "SELECT state, token_generation, close_after_s FROM polls WHERE id = %s FOR NO KEY UPDATE"

# Nodes take a poll for closed from the announcement of a close on, until they see a state that is newer; also when it
# is opened after that by a command that was asked for before. Totals that are final keep their version.
OUTDATE_CLOSE = """
UPDATE polls SET state_changed_at_us = greatest(state_changed_at_us, %(at_us)s) + 1,
  version = CASE WHEN final THEN version ELSE greatest(version + 1, %(now_us)s) END, changed_at_rest_us = %(now_us)s
WHERE id = %(poll_id)s
"""

# Not now(): the transaction may have waited for the poll's lock.
INSERT_STATE_CHANGE = """
INSERT INTO state_changes (poll_id, command_id, at_us, new_state, actor, recorded_at)
VALUES (%s, %s, %s, %s, %s, clock_timestamp())
ON CONFLICT (command_id) DO NOTHING RETURNING id
"""

# Equal times keep the order of arrival.
READ_STATE_LOG = """
SELECT at_us, new_state, actor, command_id, (extract(epoch FROM recorded_at) * 1000000)::bigint
FROM state_changes WHERE poll_id = %s ORDER BY at_us, id
"""

READ_PERIODS = "SELECT opened_at_us, closed_at_us FROM voting_periods WHERE poll_id = %s ORDER BY ordinal"

REPLACE_PERIODS = """
DELETE FROM voting_periods WHERE poll_id = %(poll_id)s;
INSERT INTO voting_periods (poll_id, ordinal, opened_at_us, closed_at_us)
SELECT %(poll_id)s, ordinal, opened_at_us, closed_at_us
FROM unnest(%(opened)s::bigint[], %(closed)s::bigint[]) WITH ORDINALITY AS t (opened_at_us, closed_at_us, ordinal)
"""

# state_changed_at_us never goes back: nodes ignore a snapshot whose state is older than the one they have.
UPDATE_STATE = """
UPDATE polls SET state = %(state)s, state_changed_at_us = greatest(state_changed_at_us + 1, %(changed_at_us)s),
  opened_at_us = %(opened_at_us)s, closed_at_us = %(closed_at_us)s, reopened_count = %(reopened_count)s, final = false,
  version = greatest(version + 1, %(now_us)s), changed_at_rest_us = %(now_us)s
WHERE id = %(poll_id)s
"""

READ_SNAPSHOTS = """
SELECT p.id, p.room_code, p.question, p.options, p.state, p.version, t.votes, p.final, p.created_at,
  p.state_changed_at_us, p.opened_at_us, p.reopened_count, p.token_generation, p.creator_address, p.expires_at,
  p.results, p.vote_change, p.close_after_s, p.max_participants,
  ARRAY(SELECT browser_id FROM hosts h WHERE h.poll_id = p.id ORDER BY claimed_at, browser_id)
FROM polls p JOIN tallies t ON t.poll_id = p.id WHERE
"""

# Ordered, as votes lock them. Both rise: nodes and browsers drop whatever is older than what they have.
RAISE_ALL = """
UPDATE polls SET version = greatest(version + 1, %(now_us)s),
  state_changed_at_us = greatest(state_changed_at_us + 1, %(now_us)s)
WHERE id IN (SELECT id FROM polls WHERE id > %(after)s AND expires_at > now() ORDER BY id LIMIT %(limit)s
  FOR NO KEY UPDATE)
RETURNING id
"""

READ_VERSION = "SELECT version FROM polls WHERE id = %s"

READ_NICKNAMES = """
SELECT nickname_key, participant_id FROM participants WHERE poll_id = %s AND nickname_key > %s
ORDER BY nickname_key LIMIT %s
"""

READ_VERSIONS = """
SELECT id, room_code, version FROM polls WHERE state = 'open'
UNION SELECT id, room_code, version FROM polls WHERE changed_at_rest_us >= %s
"""

# The period's end, at which a vote no longer counts, is the close's own time, however late it is noticed.
READ_DUE_CLOSES = """
SELECT id, opened_at_us, opened_at_us + close_after_s * 1000000::bigint FROM polls
WHERE state = 'open' AND close_after_s IS NOT NULL AND opened_at_us + close_after_s * 1000000::bigint <= %s
ORDER BY 3 LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED
"""

# A browser can have several participants in one poll: two people with one phone.
READ_ROLES = """
SELECT p.id, p.room_code, r.participant_id, r.nickname, r.host, (extract(epoch FROM r.since) * 1000000)::bigint,
  p.token_generation
FROM (SELECT poll_id, participant_id, nickname, false AS host, joined_at AS since
      FROM participants WHERE browser_id = %(browser_id)s
      UNION ALL SELECT poll_id, NULL, NULL, true, claimed_at FROM hosts WHERE browser_id = %(browser_id)s) AS r
JOIN polls p ON p.id = r.poll_id AND p.expires_at > now()
ORDER BY r.since DESC LIMIT 200
"""


def create_poll(db: Database, command: CreatePoll, *, retention_days: int, now_us: int | None = None) -> PollSnapshot:
    """Store a new poll under a room code that nobody can guess; once per ``command_id``, however often repeated.

    Its retention begins now, by the database's clock unless ``now_us`` says otherwise.
    """
    with db.transaction():
        now_us = db.now_us() if now_us is None else now_us
        poll_id = _insert_poll(db, command, now_us, now_us + retention_days * _DAY_US)
        return read_snapshots(db, [poll_id])[0]


def _insert_poll(db: Database, command: CreatePoll, now_us: int, expires_at_us: int) -> int:
    for _ in range(_CODE_TRIES):
        row = db.execute(
            INSERT_POLL,
            {
                "id": new_poll_id(),
                "command_id": command.command_id,
                "room_code": new_room_code(),
                "question": command.question,
                "options": list(command.options),
                "now_us": now_us,
                "now": at(now_us),
                "expires": at(expires_at_us),
                "creator_address": command.creator_address,
                **msgspec.structs.asdict(command.rules),
            },
        ).fetchone()
        if row:
            db.execute(INSERT_TALLY, (row[0], len(command.options)))
            if command.browser_id is not None:
                db.execute(INSERT_HOST, {"poll_id": row[0], "browser_id": command.browser_id, "generation": 1})
            return int(row[0])
        known = db.execute("SELECT id FROM polls WHERE command_id = %s", (command.command_id,)).fetchone()
        if known:
            return int(known[0])
    raise RuntimeError(f"no free room code in {_CODE_TRIES} tries")


def new_poll_id() -> int:
    """One of 2**52, unpredictable: no database, restored or new, gives it to a second poll. Exact in a double, too."""
    return secrets.randbelow(_POLL_IDS) + 1


def new_room_code() -> str:
    """Six characters, one of 32**6, unpredictable."""
    return "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_LENGTH))


def change_state(db: Database, command: ChangeState, now_us: int) -> StateChange:
    """Open, close or reset a poll, once per ``command_id``.

    Changes sort by ``at_us``, not by arrival: one that arrives late lands in its place, and the poll's state and voting
    periods follow from the whole log.

    :raises PollMissing:
    """
    with db.transaction():
        row = db.execute(LOCK_POLL, (command.poll_id,)).fetchone()
        if row is None:
            raise PollMissing(command.poll_id)
        if 0 < command.token_generation < row[1]:
            return _refuse_revoked(db, command, PollState(row[0]), now_us)
        recorded = _record(db, command)
        log = db.execute(READ_STATE_LOG, (command.poll_id,)).fetchall()
        close_after_us = None if row[2] is None else row[2] * 1_000_000
        timeline = _fold(log, close_after_us)
        changed = _store_timeline(db, command.poll_id, PollState(row[0]), timeline, now_us)
        previous = PollState(row[0]) if recorded else _state_before(log, command.command_id, close_after_us)
        poll = read_snapshots(db, [command.poll_id])[0]
        if recorded:
            append(db, [_audit_entry(command, poll, previous, now_us)])
        return StateChange(poll, previous, changed)


def _refuse_revoked(db: Database, command: ChangeState, state: PollState, now_us: int) -> StateChange:
    """A node admitted it before it had heard of the revocation, and may have announced a close: that must not stay."""
    if command.new_state is not PollState.OPEN:
        db.execute(OUTDATE_CLOSE, {"poll_id": command.poll_id, "at_us": command.at_us, "now_us": now_us})
    poll = read_snapshots(db, [command.poll_id])[0]
    entry = AuditEntry(
        at_us=now_us,
        event="state_change_refused",
        action=command.new_state.value,
        outcome="refused",
        room_code=poll.room_code,
        actor=command.actor,
        correlation_id=command.correlation_id,
        details={"reason": "revoked"},
    )
    append(db, [entry])
    return StateChange(poll, state, changed=False, revoked=True)


def _record(db: Database, command: ChangeState) -> bool:
    values = (command.poll_id, command.command_id, command.at_us, command.new_state.value, command.actor)
    return db.execute(INSERT_STATE_CHANGE, values).fetchone() is not None


def _fold(log: Sequence[tuple[int, str, str, UUID, int]], close_after_us: int | None) -> Timeline:
    entries = [(at_us, PollState(state), actor, recorded_us) for at_us, state, actor, _, recorded_us in log]
    return fold(entries, close_after_us)


def _state_before(
    log: Sequence[tuple[int, str, str, UUID, int]], command_id: UUID, close_after_us: int | None
) -> PollState:
    """What a repeated command found when it was first applied in order."""
    place = next((i for i, row in enumerate(log) if row[3] == command_id), len(log))
    return _fold(log[:place], close_after_us).state


def _store_timeline(db: Database, poll_id: int, state: PollState, timeline: Timeline, now_us: int) -> bool:
    stored = tuple(db.execute(READ_PERIODS, (poll_id,)).fetchall())
    if timeline.state is state and timeline.periods == stored:
        return False
    db.execute(
        REPLACE_PERIODS,
        {
            "poll_id": poll_id,
            "opened": [opened_at_us for opened_at_us, _ in timeline.periods],
            "closed": [closed_at_us for _, closed_at_us in timeline.periods],
        },
    )
    db.execute(
        UPDATE_STATE,
        {
            "poll_id": poll_id,
            "state": timeline.state.value,
            "changed_at_us": timeline.changed_at_us,
            "opened_at_us": timeline.opened_at_us,
            "closed_at_us": timeline.closed_at_us,
            "reopened_count": timeline.reopened_count,
            "now_us": now_us,
        },
    )
    return True


def _audit_entry(command: ChangeState, poll: PollSnapshot, previous: PollState, now_us: int) -> AuditEntry:
    return AuditEntry(
        at_us=now_us,
        event="poll_state_changed",
        action="change_state",
        outcome="ok",
        room_code=poll.room_code,
        actor=command.actor,
        correlation_id=command.correlation_id,
        details={
            "asked": command.new_state.value,
            "asked_at_us": str(command.at_us),
            "state": poll.state.value,
            "previous_state": previous.value,
        },
    )


def claim_host(db: Database, command: ClaimHost) -> None:
    """Store that a browser controls a poll. A repeat, a revoked claim, and a poll that is gone change nothing."""
    values = {
        "poll_id": command.poll_id,
        "browser_id": command.browser_id,
        "generation": command.token_generation,
        "now_us": command.at_us,
    }
    with db.transaction():
        if db.execute(INSERT_HOST, values).fetchone():
            db.execute(RAISE_VERSION, values)


def revoke_hosts(db: Database, command: RevokeHosts, now_us: int) -> PollSnapshot:
    """Make host tokens of lower generations void, and let no browser host the poll any more; once for a generation.

    :raises PollMissing:
    """
    values = {"poll_id": command.poll_id, "generation": command.token_generation, "now_us": now_us}
    with db.transaction():
        if db.execute(RAISE_GENERATION, values).fetchone():
            db.execute(FORGET_HOSTS, (command.poll_id,))
        polls = read_snapshots(db, [command.poll_id])
        if not polls:
            raise PollMissing(command.poll_id)
        return polls[0]


def demand_host(db: Database, poll_id: int, token_generation: int) -> None:
    """:raises HostRevoked: the generation under which somebody was admitted as host is void
    :raises PollMissing:
    """
    with db.transaction():
        row = db.execute(READ_GENERATION, (poll_id,)).fetchone()
    if row is None:
        raise PollMissing(poll_id)
    if 0 < token_generation < row[0]:
        raise HostRevoked(poll_id)


def read_snapshots(db: Database, poll_ids: Sequence[int]) -> list[PollSnapshot]:
    """Those of the polls that exist, by id; totals, state and version of each are of one moment."""
    with db.transaction():
        rows = db.execute(READ_SNAPSHOTS + "p.id = ANY(%s::bigint[]) ORDER BY p.id", (numbers(poll_ids),))
        return [_snapshot(row) for row in rows]


def read_snapshot_by_code(db: Database, room_code: str) -> PollSnapshot | None:
    """None when there is no such poll; also for one that has expired and is not deleted yet."""
    with db.transaction():
        row = db.execute(READ_SNAPSHOTS + "p.room_code = %s AND p.expires_at > now()", (room_code,)).fetchone()
        return _snapshot(row) if row else None


def _snapshot(row: Sequence[Any]) -> PollSnapshot:
    (
        poll_id,
        room_code,
        question,
        options,
        state,
        version,
        votes,
        final,
        created_at,
        state_changed_at_us,
        opened_at_us,
        reopened_count,
        token_generation,
        creator_address,
        expires_at,
        results,
        vote_change,
        close_after_s,
        max_participants,
        hosts,
    ) = row
    return PollSnapshot(
        poll_id=poll_id,
        room_code=room_code,
        question=question,
        options=tuple(options),
        state=PollState(state),
        version=version,
        votes=tuple(votes),
        final=final,
        created_at_us=as_us(created_at),
        state_changed_at_us=state_changed_at_us,
        opened_at_us=opened_at_us,
        reopened_count=reopened_count,
        token_generation=token_generation,
        creator_address=creator_address,
        expires_at_us=as_us(expires_at),
        host_browsers=tuple(hosts),
        rules=PollRules(Results(results), vote_change, close_after_s, max_participants),
    )


def raise_versions(db: Database, after: int, limit: int, now_us: int) -> list[PollSnapshot]:
    """Make the ``limit`` next polls by id behind ``after`` newer than all that was ever shown of them, by a clock that
    is not behind; they, as they are then. None when no poll is left.

    For a database that was restored to an earlier moment: what was shown of a poll may be newer than what is stored.
    """
    with db.transaction():
        raised = db.execute(RAISE_ALL, {"after": after, "limit": limit, "now_us": now_us})
        return read_snapshots(db, [poll_id for (poll_id,) in raised])


def read_version(db: Database, poll_id: int) -> int | None:
    """None when there is no such poll."""
    with db.transaction():
        row = db.execute(READ_VERSION, (poll_id,)).fetchone()
        return int(row[0]) if row else None


def read_nicknames(db: Database, poll_id: int, chunk: int = 5000) -> Iterator[list[tuple[str, UUID]]]:
    """(folded nickname, its participant) of a poll, ``chunk`` at a time, sorted. No transaction stays open between."""
    last = ""
    while True:
        with db.transaction():
            rows = db.execute(READ_NICKNAMES, (poll_id, last, chunk)).fetchall()
        if rows:
            yield rows
        if len(rows) < chunk:
            return
        last = rows[-1][0]


def recent_versions(db: Database, since_us: int) -> list[tuple[int, str, int]]:
    """(poll id, room code, version) of open polls, and of those that changed at rest since then: by state, finality,
    a straggler or a repair."""
    with db.transaction():
        return list(db.execute(READ_VERSIONS, (since_us,)).fetchall())


def due_closes(db: Database, now_us: int | None = None) -> list[tuple[int, int, int]]:
    """(poll id, opened at, closes at) of open polls whose time is over, by the database's clock unless ``now_us`` says
    otherwise; the longest due 200.
    """
    with db.transaction():
        now_us = db.now_us() if now_us is None else now_us
        return list(db.execute(READ_DUE_CLOSES, (now_us,)).fetchall())


def read_browser_roles(db: Database, browser_id: UUID) -> list[BrowserRole]:
    """What a cookie stands for in every poll that has not expired, newest first; at most 200 roles."""
    with db.transaction():
        return [BrowserRole(*row) for row in db.execute(READ_ROLES, {"browser_id": browser_id})]
