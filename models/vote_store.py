"""Decides and stores votes: many batches in one transaction, one set-based statement for all their votes."""

from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from uuid import UUID

import psycopg2
from peewee import PeeweeException

from models import vote_parts
from models.arrays import numbers, uuids
from models.ballots import END_OF_TIME_US, Ballot, Decision, rejections
from models.database import Database
from models.times import as_us
from models.wire.commands import CastVote, VoteBatch
from models.wire.notices import Rejection

# Claiming comes first. A second worker that got the same batch waits here until the first has committed or not, and
# sorted ids keep two workers with several batches in common from waiting for each other.
CLAIM_BATCHES = """
INSERT INTO applied_batches (batch_id, node_id)
SELECT batch_id, node_id FROM unnest(%s::uuid[], %s::uuid[]) AS t (batch_id, node_id) ORDER BY batch_id
ON CONFLICT (batch_id) DO NOTHING RETURNING batch_id
"""

# Two statements in one round trip. The second must see what was committed while the first waited for its locks: without
# the lock a close and a batch would race, and two first votes of one participant would each add one to the tally.
# A period whose time is over has ended, also where nobody has committed that close yet.
LOCK_POLLS = """
SELECT FROM polls WHERE id = ANY(%(polls)s::bigint[]) ORDER BY id FOR NO KEY UPDATE;
SELECT p.id, cardinality(p.options), p.final, p.state, p.vote_change, v.opened_at_us,
  least(v.closed_at_us, v.opened_at_us + p.close_after_s * 1000000::bigint)
FROM polls p LEFT JOIN voting_periods v ON v.poll_id = p.id WHERE p.id = ANY(%(polls)s::bigint[]) ORDER BY v.ordinal
"""

# One index lookup per vote, as in UPSERT_VOTES.
READ_STANDING = """
SELECT t.poll_id, t.participant_id, standing.option_index
FROM unnest(%s::bigint[], %s::uuid[]) AS t (poll_id, participant_id), LATERAL (
  SELECT option_index FROM votes v WHERE v.poll_id = t.poll_id AND v.participant_id = t.participant_id OFFSET 0
) AS standing
"""

# The poll rows are locked, so ``old`` can't be out of date; ordered, so that the index is walked once and stubs can't
# deadlock. ``OFFSET 0`` keeps the planner at one index lookup per vote: free to choose, it joined by reading the whole
# votes table (half the speed at 50 000 rows, worse with each row more). Measured against an UPDATE plus an INSERT of
# what is missing: that is a third as fast for changes.
UPSERT_VOTES = """
WITH incoming AS MATERIALIZED (
  SELECT t.poll_id, t.participant_id, t.option_index, t.seq, old.option_index AS old_option,
    'epoch'::timestamptz + first_us * interval '1 us' AS first_voted_at,
    'epoch'::timestamptz + received_us * interval '1 us' AS submitted_at
  FROM unnest(%s::bigint[], %s::uuid[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS t (poll_id, participant_id, option_index, seq, first_us, received_us)
  LEFT JOIN LATERAL (
    SELECT option_index FROM votes v WHERE v.poll_id = t.poll_id AND v.participant_id = t.participant_id OFFSET 0
  ) AS old ON true
), written AS (
  INSERT INTO votes AS v (poll_id, participant_id, seq, first_voted_at, submitted_at, option_index)
  SELECT poll_id, participant_id, seq, first_voted_at, submitted_at, option_index FROM incoming ORDER BY 1, 2
  ON CONFLICT (poll_id, participant_id) DO UPDATE
    SET seq = excluded.seq, submitted_at = excluded.submitted_at, option_index = excluded.option_index
    WHERE v.seq < excluded.seq
  RETURNING poll_id, participant_id
), moved AS (
  SELECT i.* FROM written JOIN incoming i USING (poll_id, participant_id)
), stubs AS (
  INSERT INTO participants (participant_id, poll_id, joined_at, last_seen_at)
  SELECT participant_id, poll_id, first_voted_at, first_voted_at FROM moved m
  WHERE old_option IS NULL
    AND NOT EXISTS (SELECT FROM participants p WHERE p.participant_id = m.participant_id OFFSET 0)
  ORDER BY 1
  ON CONFLICT (participant_id) DO NOTHING
)
SELECT poll_id, option_index, sum(n)::bigint, count(*) FILTER (WHERE n > 0) FROM (
  SELECT poll_id, option_index, 1 AS n FROM moved
  UNION ALL
  SELECT poll_id, old_option, -1 FROM moved WHERE old_option IS NOT NULL
) AS d GROUP BY 1, 2
"""

RAISE_TALLIES = """
UPDATE tallies t SET votes = array(SELECT a + b FROM unnest(t.votes, d.delta::bigint[]) AS u (a, b))
FROM unnest(%(polls)s::bigint[], %(deltas)s::text[]) AS d (poll_id, delta) WHERE t.poll_id = d.poll_id;
UPDATE polls SET version = greatest(version + 1, %(now_us)s) WHERE id = ANY(%(polls)s::bigint[])
"""

COUNT_BATCHES = """
INSERT INTO poll_batches AS b (poll_id, node_id, batches)
SELECT poll_id, node_id, count(*) FROM unnest(%s::bigint[], %s::uuid[]) AS t (poll_id, node_id)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (poll_id, node_id) DO UPDATE SET batches = b.batches + excluded.batches
"""

STORE_REJECTED = """
INSERT INTO rejected_votes (poll_id, participant_id, seq, option_index, code)
SELECT * FROM unnest(%s::bigint[], %s::uuid[], %s::bigint[], %s::smallint[], %s::text[]) ORDER BY 1, 2, 3
ON CONFLICT (poll_id, participant_id, seq) DO NOTHING
"""

READ_REJECTED = """
SELECT poll_id, participant_id, seq, code FROM rejected_votes
JOIN unnest(%s::bigint[], %s::uuid[], %s::bigint[]) AS t (poll_id, participant_id, seq)
  USING (poll_id, participant_id, seq)
"""

# One index lookup per vote, as in UPSERT_VOTES.
READ_STORED = """
SELECT t.poll_id, t.participant_id, stored.option_index, stored.submitted_at, stored.seq
FROM (SELECT DISTINCT * FROM unnest(%s::bigint[], %s::uuid[]) AS u (poll_id, participant_id)) AS t, LATERAL (
  SELECT option_index, submitted_at, seq FROM votes v
  WHERE v.poll_id = t.poll_id AND v.participant_id = t.participant_id OFFSET 0
) AS stored
"""

READ_ROOM_CODES = "SELECT id, room_code FROM polls WHERE id = ANY(%s::bigint[])"

# A vote in a closed poll is a straggler: it was received in time and counts. Sweeps look at polls that changed at rest.
NOTE_STRAGGLERS = """
UPDATE polls SET changed_at_rest_us = %(now_us)s WHERE id = ANY(%(closed)s::bigint[]);
INSERT INTO audit_log (at, event, action, room_code, details)
SELECT now(), 'late_straggler_counted', 'store_votes', room_code, jsonb_build_object('version', version::text)
FROM polls WHERE id = ANY(%(final)s::bigint[])
"""


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """``rejections``: one tuple per batch, in order; None of one of which something is left out. ``changed_polls``: ids
    of polls whose votes changed, sorted.
    ``choices``: what those who voted in these batches have chosen, as of the commit; one vote per participant and poll.
    """

    rejections: list[tuple[Rejection, ...] | None]
    changed_polls: list[int]
    choices: Collection[CastVote] = ()


def store_batches(
    db: Database, batches: Sequence[VoteBatch], now_us: int, locked: Set[int] = frozenset()
) -> StoredBatches:
    """Decide and store the votes of all batches in one transaction; each batch takes effect once, as a whole.

    Votes of the ``locked`` polls are left out: they are stored when their batch comes again.

    A batch that was applied before changes nothing and answers what it answered then. Never store a part of a batch
    under its ``batch_id`` and the rest later: the rest would count as applied. To leave out votes that make a batch
    fail, find them with ``poisonous_votes`` and store the batch once without them.

    :raises DatabaseUnavailable: nothing is known to be stored; safe to repeat
    :raises peewee.PeeweeException, ValueError: a vote can't be stored, whenever it is tried; nothing is stored
    """
    with db.transaction():
        new, again = _claim(db, batches)
        now = vote_parts.leave_out(db, new, locked) if locked else new
        if again:
            now = [*now, *vote_parts.take_up(db, again, locked)]
        decision, ballots = _decide(db, now)
        changed, written = _write_votes(db, decision, ballots, now_us) if decision.latest else ([], 0)
        choices: Collection[CastVote] = decision.latest.values()
        if again or written < len(choices):
            choices = _read_stored(db, [*choices, *(vote for batch in again for vote in batch.votes)])
        _count_batches(db, now, ballots)
        codes = _store_rejected(db, decision.refused)
        codes.update(_read_rejected(db, again))
        rooms = room_codes(db, {poll_id for poll_id, _, _ in codes})
        left = vote_parts.unfinished(db, batches) if locked else frozenset()
    refused = [
        None if batch.batch_id in left else rejections(batch, codes, rooms, decision.stands) for batch in batches
    ]
    return StoredBatches(refused, changed, choices)


def room_codes(db: Database, poll_ids: Iterable[int]) -> dict[int, str]:
    """The room codes of those of the polls that exist; any number may be asked for."""
    ids = sorted(storable(poll_ids))
    if not ids:
        return {}
    with db.transaction():
        return dict(db.execute(READ_ROOM_CODES, (numbers(ids),)).fetchall())


def storable(poll_ids: Iterable[int]) -> set[int]:
    """Those that can be a poll's id at all: a number beyond is an error to the database."""
    return {poll_id for poll_id in poll_ids if 0 < poll_id < 2**63}


def poisonous_votes(db: Database, batch: VoteBatch, now_us: int) -> list[int]:
    """Places, in the batch, of votes that make storing it fail for their own sake. Changes nothing.

    :raises DatabaseUnavailable:
    """

    def search(places: range) -> list[int]:
        part = VoteBatch(batch.batch_id, batch.node_id, tuple(batch.votes[place] for place in places))
        if not _fails(db, part, now_us):
            return []
        if len(places) == 1:
            return [places[0]]
        middle = len(places) // 2
        return search(places[:middle]) + search(places[middle:])

    return search(range(len(batch.votes)))


class _Undo(Exception):
    """Leaves a trial's transaction without a trace."""


def _fails(db: Database, batch: VoteBatch, now_us: int) -> bool:
    try:
        with db.transaction():
            store_batches(db, [batch], now_us)
            raise _Undo
    except _Undo:
        return False
    except (PeeweeException, psycopg2.Error, ValueError, OverflowError):
        return True


def _claim(db: Database, batches: Sequence[VoteBatch]) -> tuple[list[VoteBatch], list[VoteBatch]]:
    """Batches applied from now on, and those that were applied before (or stand twice in this call)."""
    ids, nodes = uuids(batch.batch_id for batch in batches), uuids(batch.node_id for batch in batches)
    claimed = {batch_id for (batch_id,) in db.execute(CLAIM_BATCHES, (ids, nodes))}
    new, again = [], []
    for batch in batches:
        if batch.batch_id in claimed:
            claimed.remove(batch.batch_id)
            new.append(batch)
        else:
            again.append(batch)
    return new, again


def _decide(db: Database, batches: Sequence[VoteBatch]) -> tuple[Decision, dict[int, Ballot]]:
    poll_ids = {poll_id for batch in batches for poll_id in vote_parts.polls_of(batch)}
    ballots = _lock_ballots(db, sorted(poll_ids)) if poll_ids else {}
    fixed = {poll_id for poll_id, ballot in ballots.items() if not ballot.changeable}
    decision = Decision(ballots, _standing(db, batches, fixed) if fixed else None)
    for batch in batches:
        decision.add(batch.votes)
    return decision, ballots


def _standing(db: Database, batches: Sequence[VoteBatch], poll_ids: Set[int]) -> dict[tuple[int, int], int]:
    """What those who vote in these polls have voted for already; their rows are locked, so nobody else adds to it."""
    votes = [vote for batch in batches for vote in batch.votes if vote.poll_id in poll_ids]
    pairs = (numbers(vote.poll_id for vote in votes), uuids(vote.participant_id for vote in votes))
    rows = db.execute(READ_STANDING, pairs)
    return {(poll_id, participant_id.int): option for poll_id, participant_id, option in rows}


def _lock_ballots(db: Database, poll_ids: Sequence[int]) -> dict[int, Ballot]:
    periods: dict[int, list[tuple[int, int]]] = {}
    polls: dict[int, tuple[int, bool, str, bool]] = {}
    for poll_id, options, final, state, vote_change, opened_at_us, closed_at_us in db.execute(
        LOCK_POLLS, {"polls": numbers(poll_ids)}
    ):
        polls[poll_id] = (options, final, state, vote_change)
        if opened_at_us is not None:
            end_us = END_OF_TIME_US if closed_at_us is None else closed_at_us
            periods.setdefault(poll_id, []).append((opened_at_us, end_us))
    return {
        poll_id: Ballot(options, tuple(periods.get(poll_id, ())), final, state != "open", vote_change)
        for poll_id, (options, final, state, vote_change) in polls.items()
    }


def _read_stored(db: Database, votes: Sequence[CastVote]) -> list[CastVote]:
    """What the database holds of those who cast these votes: some of them are older than that."""
    keys = (numbers(vote.poll_id for vote in votes), uuids(vote.participant_id for vote in votes))
    return [
        CastVote(poll_id, participant_id, option_index, as_us(submitted_at), seq)
        for poll_id, participant_id, option_index, submitted_at, seq in db.execute(READ_STORED, keys)
    ]


def _write_votes(db: Database, decision: Decision, ballots: dict[int, Ballot], now_us: int) -> tuple[list[int], int]:
    """Ids of the polls that changed, and how many votes were written: not those older than what is stored."""
    votes = decision.latest.values()
    moves = db.execute(
        UPSERT_VOTES,
        (
            numbers(vote.poll_id for vote in votes),
            uuids(vote.participant_id for vote in votes),
            numbers(vote.option_index for vote in votes),
            numbers(vote.seq for vote in votes),
            numbers(decision.first_received_us(vote) for vote in votes),
            numbers(vote.received_at_us for vote in votes),
        ),
    )
    deltas: dict[int, list[int]] = {}
    written = 0
    for poll_id, option_index, difference, chosen in moves:
        written += chosen
        deltas.setdefault(poll_id, [0] * ballots[poll_id].options)[option_index] += difference
    if not deltas:
        return [], 0
    changed = sorted(deltas)
    literals = [numbers(deltas[poll_id]) for poll_id in changed]
    db.execute(RAISE_TALLIES, {"polls": numbers(changed), "deltas": literals, "now_us": now_us})
    _note_stragglers(db, [poll_id for poll_id in changed if ballots[poll_id].at_rest], ballots, now_us)
    return changed, written


def _note_stragglers(db: Database, closed: list[int], ballots: dict[int, Ballot], now_us: int) -> None:
    if closed:
        final = numbers(poll_id for poll_id in closed if ballots[poll_id].final)
        db.execute(NOTE_STRAGGLERS, {"closed": numbers(closed), "final": final, "now_us": now_us})


def _count_batches(db: Database, batches: Iterable[VoteBatch], ballots: dict[int, Ballot]) -> None:
    """Each batch counts once for every poll that it holds or held a vote of, also when all of those were rejected."""
    pairs: list[tuple[int, UUID]] = []
    for batch in batches:
        pairs += [(poll_id, batch.node_id) for poll_id in vote_parts.polls_of(batch) & ballots.keys()]
    if pairs:
        db.execute(COUNT_BATCHES, (numbers(poll_id for poll_id, _ in pairs), uuids(node_id for _, node_id in pairs)))


def _store_rejected(db: Database, refused: Sequence[tuple[CastVote, str]]) -> dict[tuple[int, int, int], str]:
    if not refused:
        return {}
    votes = [vote for vote, _ in refused]
    options = numbers(vote.option_index for vote in votes)
    db.execute(STORE_REJECTED, (*_keys(votes), options, [code for _, code in refused]))
    return {(vote.poll_id, vote.participant_id.int, vote.seq): code for vote, code in refused}


def _read_rejected(db: Database, batches: Iterable[VoteBatch]) -> dict[tuple[int, int, int], str]:
    votes = [vote for batch in batches for vote in batch.votes]
    if not votes:
        return {}
    rows = db.execute(READ_REJECTED, _keys(votes))
    return {(poll_id, participant_id.int, seq): code for poll_id, participant_id, seq, code in rows}


def _keys(votes: Sequence[CastVote]) -> tuple[str, str, str]:
    return (
        numbers(vote.poll_id for vote in votes),
        uuids(vote.participant_id for vote in votes),
        numbers(vote.seq for vote in votes),
    )
