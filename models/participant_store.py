"""Stores who joined and when they were seen, and reads what they chose."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from models.arrays import numbers, uuids
from models.database import Database
from models.times import at
from models.wire.commands import Registration, Sighting
from models.wire.notices import Choice

# Registrations of one poll go one after another: two that wait for each other's nicknames would deadlock, whatever the
# order of their rows. Not the poll's row lock, which belongs to votes.
SERIALIZE = "SELECT pg_advisory_xact_lock(%s, id) FROM unnest(%s::integer[]) AS t (id)"
_LOCK_SPACE = 20_551  # keeps these locks apart from other advisory locks

READ_HOLDERS = """
SELECT poll_id, nickname_key, participant_id FROM participants
JOIN unnest(%s::bigint[], %s::text[]) AS t (poll_id, nickname_key) USING (poll_id, nickname_key)
"""

# Fills in a stub; whoever has a nickname keeps it. Ordered, since votes insert stubs at the same time.
INSERT_PARTICIPANTS = """
INSERT INTO participants AS p (participant_id, poll_id, nickname, nickname_key, browser_id, joined_at, last_seen_at)
SELECT participant_id, poll_id, nickname, nickname_key, browser_id, joined_at, joined_at
FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::uuid[], %s::timestamptz[])
  AS t (participant_id, poll_id, nickname, nickname_key, browser_id, joined_at)
ORDER BY participant_id
ON CONFLICT (participant_id) DO UPDATE
  SET nickname = excluded.nickname, nickname_key = excluded.nickname_key, browser_id = excluded.browser_id,
    joined_at = least(p.joined_at, excluded.joined_at), last_seen_at = greatest(p.last_seen_at, excluded.last_seen_at)
  WHERE p.nickname IS NULL
"""

UPSERT_SIGHTINGS = """
INSERT INTO participants AS p (participant_id, poll_id, connected, joined_at, last_seen_at)
SELECT participant_id, poll_id, connected, seen_at, seen_at
FROM unnest(%s::uuid[], %s::bigint[], %s::boolean[], %s::timestamptz[])
  AS t (participant_id, poll_id, connected, seen_at)
ORDER BY participant_id
ON CONFLICT (participant_id) DO UPDATE
  SET connected = excluded.connected, last_seen_at = excluded.last_seen_at
  WHERE p.last_seen_at <= excluded.last_seen_at
"""

READ_CHOICES = """
SELECT asked.participant_id, coalesce(v.option_index, -1), coalesce(v.seq, 0)
FROM unnest(%s::uuid[]) WITH ORDINALITY AS asked (participant_id, place)
LEFT JOIN votes v ON v.poll_id = %s AND v.participant_id = asked.participant_id
ORDER BY place
"""


def register(db: Database, registrations: Sequence[Registration]) -> list[Registration]:
    """Store participants. Idempotent; a repeat returns the same.

    :return: those whose nickname another participant of the poll already holds. They are stored all the same, so that
        none of their votes is void, but don't hold the nickname.
    """
    latest = {registration.participant_id: registration for registration in registrations}
    if not latest:
        return []
    # Who joined first has the nickname.
    joined = sorted(latest.values(), key=lambda one: (one.joined_at_us, one.participant_id))
    with db.transaction():
        keys = sorted({registration.poll_id & 0x7FFF_FFFF for registration in joined})
        db.execute(SERIALIZE, (_LOCK_SPACE, numbers(keys)))
        conflicts = _conflicts(joined, _holders(db, joined))
        _insert(db, joined, {conflict.participant_id for conflict in conflicts})
    return conflicts


def _holders(db: Database, registrations: Sequence[Registration]) -> dict[tuple[int, str], UUID]:
    polls = numbers(one.poll_id for one in registrations)
    rows = db.execute(READ_HOLDERS, (polls, [one.nickname_key for one in registrations]))
    return {(poll_id, key): participant_id for poll_id, key, participant_id in rows}


def _conflicts(registrations: Iterable[Registration], holders: dict[tuple[int, str], UUID]) -> list[Registration]:
    return [
        one
        for one in registrations
        if holders.setdefault((one.poll_id, one.nickname_key), one.participant_id) != one.participant_id
    ]


def _insert(db: Database, registrations: Sequence[Registration], without_key: set[UUID]) -> None:
    db.execute(
        INSERT_PARTICIPANTS,
        (
            uuids(one.participant_id for one in registrations),
            numbers(one.poll_id for one in registrations),
            [one.nickname for one in registrations],
            [None if one.participant_id in without_key else one.nickname_key for one in registrations],
            [one.browser_id for one in registrations],
            [at(one.joined_at_us) for one in registrations],
        ),
    )


def record_presence(db: Database, sightings: Sequence[Sighting]) -> None:
    """Store who is connected and when they were last seen; an older sighting never replaces a newer one."""
    latest: dict[UUID, Sighting] = {}
    for sighting in sightings:
        other = latest.get(sighting.participant_id)
        if other is None or other.at_us <= sighting.at_us:
            latest[sighting.participant_id] = sighting
    if not latest:
        return
    newest = latest.values()
    with db.transaction():
        db.execute(
            UPSERT_SIGHTINGS,
            (
                uuids(one.participant_id for one in newest),
                numbers(one.poll_id for one in newest),
                [one.connected for one in newest],
                [at(one.at_us) for one in newest],
            ),
        )


def read_choices(db: Database, poll_id: int, participant_ids: Sequence[UUID]) -> list[Choice]:
    """One per participant asked for, in that order."""
    with db.transaction():
        rows = db.execute(READ_CHOICES, (uuids(participant_ids), poll_id))
        return [Choice(*row) for row in rows]
