"""Votes of a poll whose row is locked are stored later than the rest of their batch."""

from typing import Any

UP = """
CREATE TABLE left_out_polls (
    batch_id uuid NOT NULL,
    poll_id bigint NOT NULL,
    PRIMARY KEY (batch_id, poll_id)
);
"""

# Acked votes that would be taken for stored.
DOWN = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM left_out_polls) THEN
        RAISE EXCEPTION 'votes were left out of their batches and wait in the queue: let workers store them first';
    END IF;
END $$;
DROP TABLE left_out_polls;
"""


def up(_migrator: Any, db: Any) -> None:
    db.execute_sql(UP)


def down(_migrator: Any, db: Any) -> None:
    db.execute_sql(DOWN)
