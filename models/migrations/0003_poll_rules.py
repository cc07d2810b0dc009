"""What a host chooses for a poll: who sees its totals, whether votes change, when it closes, how many may join."""

from typing import Any

UP = """
ALTER TABLE polls
    ADD COLUMN results text NOT NULL DEFAULT 'always',
    ADD COLUMN vote_change boolean NOT NULL DEFAULT true,
    ADD COLUMN close_after_s integer,
    ADD COLUMN max_participants integer;
COMMENT ON COLUMN polls.results IS 'who sees the totals until it is closed: always, after-vote, after-close or host';
COMMENT ON COLUMN polls.close_after_s IS 'each voting period ends by itself after so many seconds';
CREATE INDEX polls_timed ON polls (id) WHERE state = 'open' AND close_after_s IS NOT NULL;
"""

# Totals that a host has kept from the room must not become everybody's.
DOWN = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM polls WHERE results <> 'always' OR NOT vote_change
        OR close_after_s IS NOT NULL OR max_participants IS NOT NULL) THEN
        RAISE EXCEPTION 'polls have rules of their own: they would be lost';
    END IF;
END $$;
ALTER TABLE polls DROP COLUMN results, DROP COLUMN vote_change, DROP COLUMN close_after_s,
    DROP COLUMN max_participants;
"""


def up(_migrator: Any, db: Any) -> None:
    db.execute_sql(UP)


def down(_migrator: Any, db: Any) -> None:
    db.execute_sql(DOWN)
