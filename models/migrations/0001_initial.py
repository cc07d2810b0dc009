"""The first tables: polls with their state log, participants, votes and tallies, and the accounts behind a final total.

All ``*_us`` are microseconds since the epoch, as on the wire.
"""

from typing import Any

# Room codes and nicknames compare by code point: their order must not depend on the system's locale.
UP = """
CREATE TABLE polls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id uuid NOT NULL UNIQUE,
    room_code text COLLATE "C" NOT NULL UNIQUE,
    question text NOT NULL,
    options text[] NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'open', 'closed')),
    version bigint NOT NULL,
    final boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    state_changed_at_us bigint NOT NULL,
    opened_at_us bigint NOT NULL DEFAULT 0,
    closed_at_us bigint,
    changed_at_rest_us bigint NOT NULL,
    reopened_count integer NOT NULL DEFAULT 0,
    token_generation integer NOT NULL DEFAULT 1,
    creator_address text NOT NULL DEFAULT ''
) WITH (fillfactor = 60);
COMMENT ON COLUMN polls.version IS 'raised by every change of votes or state; in no index, so raising it stays HOT';
COMMENT ON COLUMN polls.changed_at_rest_us IS 'when anything but the votes of an open poll last changed: state, '
    'finality, a straggler, a repair; with the open polls it bounds what a sweep must look at';
CREATE INDEX polls_open ON polls (id) WHERE state = 'open';
CREATE INDEX polls_unsettled ON polls (id) WHERE state = 'closed' AND NOT final;
CREATE INDEX polls_changed_at_rest ON polls (changed_at_rest_us);
CREATE INDEX polls_expires_at ON polls (expires_at);

CREATE TABLE voting_periods (
    poll_id bigint NOT NULL REFERENCES polls ON DELETE CASCADE,
    ordinal smallint NOT NULL,
    opened_at_us bigint NOT NULL,
    closed_at_us bigint CHECK (closed_at_us >= opened_at_us),
    PRIMARY KEY (poll_id, ordinal)
);

CREATE TABLE state_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    poll_id bigint NOT NULL REFERENCES polls ON DELETE CASCADE,
    command_id uuid NOT NULL UNIQUE,
    at_us bigint NOT NULL,
    new_state text NOT NULL CHECK (new_state IN ('waiting', 'open', 'closed')),
    actor text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX state_changes_of_poll ON state_changes (poll_id, at_us, id);

CREATE TABLE participants (
    participant_id uuid PRIMARY KEY,
    poll_id bigint NOT NULL,
    nickname text,
    nickname_key text COLLATE "C",
    browser_id uuid,
    connected boolean NOT NULL DEFAULT true,
    joined_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
) WITH (fillfactor = 85);
COMMENT ON TABLE participants IS 'without a nickname: a stub of a vote or sighting that overtook the registration';
COMMENT ON COLUMN participants.nickname_key IS 'null in a stub, and for a nickname that another already held';
CREATE UNIQUE INDEX participants_nickname ON participants (poll_id, nickname_key);
CREATE INDEX participants_browser ON participants (browser_id) WHERE browser_id IS NOT NULL;

CREATE TABLE votes (
    poll_id bigint NOT NULL,
    participant_id uuid NOT NULL,
    seq bigint NOT NULL,
    first_voted_at timestamptz NOT NULL,
    submitted_at timestamptz NOT NULL,
    option_index smallint NOT NULL,
    PRIMARY KEY (poll_id, participant_id)
) WITH (fillfactor = 85);
COMMENT ON TABLE votes IS 'one row per participant and poll; no foreign keys: a vote may overtake its registration';
COMMENT ON COLUMN votes.submitted_at IS 'when a node received the stored choice';

CREATE TABLE tallies (
    poll_id bigint PRIMARY KEY,
    votes bigint[] NOT NULL
) WITH (fillfactor = 40);

CREATE TABLE rejected_votes (
    poll_id bigint NOT NULL,
    participant_id uuid NOT NULL,
    seq bigint NOT NULL,
    option_index smallint NOT NULL,
    code text NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (poll_id, participant_id, seq)
);

CREATE INDEX rejected_votes_by_age ON rejected_votes USING brin (rejected_at);

CREATE TABLE applied_batches (
    batch_id uuid PRIMARY KEY,
    node_id uuid NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX applied_batches_by_age ON applied_batches USING brin (applied_at);

CREATE TABLE poll_batches (
    poll_id bigint NOT NULL,
    node_id uuid NOT NULL,
    batches bigint NOT NULL,
    PRIMARY KEY (poll_id, node_id)
) WITH (fillfactor = 50);

CREATE TABLE poll_flushes (
    poll_id bigint NOT NULL,
    node_id uuid NOT NULL,
    closed_at_us bigint NOT NULL,
    batches bigint NOT NULL,
    unclear uuid[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (poll_id, node_id)
);

CREATE TABLE nodes (
    node_id uuid PRIMARY KEY,
    name text NOT NULL,
    last_seen_at_us bigint NOT NULL,
    stopped boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE hosts (
    poll_id bigint NOT NULL REFERENCES polls ON DELETE CASCADE,
    browser_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (poll_id, browser_id)
);
CREATE INDEX hosts_of_browser ON hosts (browser_id);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    event text NOT NULL,
    action text NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT 'ok',
    room_code text NOT NULL DEFAULT '',
    actor text NOT NULL DEFAULT '',
    address text NOT NULL DEFAULT '',
    correlation_id text NOT NULL DEFAULT '',
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_age ON audit_log USING brin (at);
CREATE INDEX audit_log_of_room ON audit_log (room_code, at) WHERE room_code <> '';
"""

# Going back once more than was meant must not cost every vote.
DOWN = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM polls) OR EXISTS (SELECT FROM votes) THEN
        RAISE EXCEPTION 'there are polls and votes: to be rid of them, empty the tables first';
    END IF;
END $$;
DROP TABLE audit_log, hosts, nodes, poll_flushes, poll_batches, applied_batches, rejected_votes, tallies, votes,
    participants, state_changes, voting_periods, polls;
"""


def up(_migrator: Any, db: Any) -> None:
    db.execute_sql(UP)


def down(_migrator: Any, db: Any) -> None:
    db.execute_sql(DOWN)
