"""Polls that are past their retention and on their way out: taken from ``polls`` at once, deleted row by row."""

from typing import Any

UP = """
CREATE TABLE retired_polls (
    poll_id bigint PRIMARY KEY,
    room_code text COLLATE "C" NOT NULL,
    document jsonb NOT NULL,
    retired_at timestamptz NOT NULL,
    archived_at timestamptz
);
COMMENT ON TABLE retired_polls IS 'their votes and participants are still to be archived and deleted';
COMMENT ON COLUMN retired_polls.document IS 'the poll, its totals, voting periods and state changes, as they were';
"""

# Without this table nobody would know any more that their votes are left to delete, or to archive.
DOWN = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM retired_polls) THEN
        RAISE EXCEPTION 'polls are on their way out: let scripts/retention finish first';
    END IF;
END $$;
DROP TABLE retired_polls;
"""


def up(_migrator: Any, db: Any) -> None:
    db.execute_sql(UP)


def down(_migrator: Any, db: Any) -> None:
    db.execute_sql(DOWN)
