"""What tables hold: filled for a check, summed up to be compared, and set aside while a table is away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import uuid4

from models.database import Database
from models.poll_store import change_state, create_poll
from models.wire.commands import ChangeState, CreatePoll
from models.wire.polls import PollState

NODE = uuid4()
_VOTES_PER_POLL = 10_000
_OPTIONS = ("Red", "Green", "Blue")

_PARTICIPANTS = """
INSERT INTO participants (participant_id, poll_id, nickname, nickname_key, browser_id, joined_at, last_seen_at)
SELECT gen_random_uuid(), (%(polls)s)[1 + n %% cardinality(%(polls)s)], 'Voter ' || n, 'voter ' || n, gen_random_uuid(),
  now(), now()
FROM generate_series(1, %(votes)s) AS n
"""
_VOTES = """
INSERT INTO votes (poll_id, participant_id, seq, first_voted_at, submitted_at, option_index)
SELECT poll_id, participant_id, 1, joined_at, joined_at, abs(hashtext(participant_id::text)) %% %(options)s
FROM participants
"""
_TALLIES = """
INSERT INTO tallies (poll_id, votes)
SELECT poll_id, array_agg(n ORDER BY option_index) FROM (
  SELECT poll_id, option_index, count(v.option_index) AS n
  FROM unnest(%(polls)s) AS poll_id CROSS JOIN generate_series(0, %(options)s - 1) AS option_index
    LEFT JOIN votes v USING (poll_id, option_index) GROUP BY 1, 2
) AS counted GROUP BY 1 ON CONFLICT (poll_id) DO UPDATE SET votes = excluded.votes
"""
_RETIRED = """
INSERT INTO retired_polls (poll_id, room_code, document, retired_at) VALUES (0, 'ABC234', '{"question": "Old?"}', now())
"""
_KEPT_ASIDE = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('aside')"
_REFERS = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f')"
_IDENTITIES = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attidentity <> ''"

Digest = tuple[int, str]  # rows, and a sum over all of them


def fill(db: Database, votes: int) -> list[int]:
    """Put so many votes of as many participants into open polls; the polls."""
    polls = open_polls(db, max(1, votes // _VOTES_PER_POLL))
    values = {"polls": polls, "votes": votes, "options": len(_OPTIONS)}
    with db.transaction():
        for statement in (_PARTICIPANTS, _VOTES, _TALLIES, _RETIRED):
            db.execute(statement, values)
    with db.session():
        db.execute("VACUUM ANALYZE")
    return polls


def open_polls(db: Database, number: int) -> list[int]:
    made = []
    for _ in range(number):
        command = CreatePoll(uuid4(), NODE, "Which colour?", _OPTIONS, "192.0.2.1", 0)
        poll_id = create_poll(db, command, retention_days=1, now_us=1).poll_id
        change_state(db, ChangeState(uuid4(), NODE, poll_id, PollState.OPEN, 2), now_us=2)
        made.append(poll_id)
    return made


def digests(db: Database, tables: Mapping[str, Iterable[str]]) -> dict[str, Digest]:
    """Of each table, over these of its columns."""
    with db.transaction():
        return {table: _digest(db, table, columns) for table, columns in tables.items()}


def _digest(db: Database, table: str, columns: Iterable[str]) -> Digest:
    row = ", ".join(sorted(columns))
    rows, total = db.execute(
        f"SELECT count(*), coalesce(sum(hashtextextended(ROW({row})::text, 0)::numeric), 0) FROM {table}"  # nosec B608: names of our own
    ).fetchone()
    return rows, str(total)


def says_something(db: Database, table: str, column: str) -> bool:
    """Whether a column holds anything beyond what one default would have put there."""
    with db.transaction():
        found = db.execute(f"SELECT count(DISTINCT {column}) FROM {table}").fetchone()  # nosec B608: names of our own
        return bool(found[0] > 1)


def set_aside(db: Database, tables: Iterable[str]) -> None:
    """Keep the rows of tables that are about to go in another schema, and empty the tables."""
    names = list(tables)
    with db.transaction():
        db.execute("CREATE SCHEMA IF NOT EXISTS aside")
        for table in names:
            db.execute(f"CREATE TABLE aside.{table} AS TABLE {table}")
        db.execute(f"TRUNCATE {', '.join(names)}")


def bring_back(db: Database, tables: Iterable[str]) -> None:
    """Give tables the rows back that were set aside, those first that others refer to."""
    with db.transaction():
        kept = {name for (name,) in db.execute(_KEPT_ASIDE)}
        for table in sorted(kept.intersection(tables), key=lambda name: db.execute(_REFERS, (name,)).fetchone()):
            db.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM aside.{table}")  # nosec B608: names of our own
            db.execute(f"DROP TABLE aside.{table}")
            for (column,) in db.execute(_IDENTITIES, (table,)).fetchall():
                statement = f"SELECT setval(pg_get_serial_sequence(%s, %s), coalesce(max({column}), 1)) FROM {table}"  # nosec B608: names of our own
                db.execute(statement, (table, column))
