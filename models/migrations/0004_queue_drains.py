"""Proof that a command queue has been worked off, for finals: what its consumers say, and when nodes reported."""

from typing import Any

UP = """
CREATE TABLE queue_consumers (
    consumer_id uuid PRIMARY KEY,
    queue text NOT NULL,
    seen_at timestamptz NOT NULL,
    returned bigint NOT NULL,
    drained bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE queue_drains (
    queue text PRIMARY KEY,
    asked bigint NOT NULL
) WITH (fillfactor = 50);
ALTER TABLE poll_flushes ADD COLUMN reported_at_us bigint;
COMMENT ON COLUMN poll_flushes.reported_at_us IS 'when the report was stored; null from a worker of before';
"""

DOWN = """
ALTER TABLE poll_flushes DROP COLUMN reported_at_us;
DROP TABLE queue_consumers, queue_drains;
"""


def up(_migrator: Any, db: Any) -> None:
    db.execute_sql(UP)


def down(_migrator: Any, db: Any) -> None:
    db.execute_sql(DOWN)
