"""Voting in polls that hold 1 000, 100 000 and 1 000 000 votes already: the rate must not fall as a poll grows."""

from contextlib import ExitStack

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.stage import Stage
from scripts.loadtest.rest import Room
from scripts.stack.progress import say

VOTERS = 500
ROWS = (1_000, 100_000, 1_000_000)
_KEPT = 0.95

# Ids in the order of time, as nodes make them (UUIDv7). Tallies and version move with the rows, as by a worker.
_FILL = """
WITH poll AS (
  SELECT id FROM polls WHERE room_code = %(room)s FOR NO KEY UPDATE
), filled AS (
  INSERT INTO votes (poll_id, participant_id, seq, first_voted_at, submitted_at, option_index)
  SELECT poll.id,
    (lpad(to_hex(1600000000000 + n), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8'
      || lpad(to_hex(poll.id * 10000000 + n), 15, '0'))::uuid,
    1, now(), now(), n %% 4
  FROM poll, generate_series(1, %(rows)s) AS n
  RETURNING option_index
), counted AS (
  SELECT array(
    SELECT (SELECT count(*) FROM filled WHERE option_index = o) FROM generate_series(0, 3) AS o ORDER BY o
  ) AS n
), tallied AS (
  UPDATE tallies t SET votes = array(SELECT a + b FROM counted, unnest(t.votes, counted.n) AS u (a, b))
  FROM poll WHERE t.poll_id = poll.id
)
UPDATE polls SET version = version + 1 FROM poll WHERE polls.id = poll.id
"""


def run(bench: Bench) -> list[Row]:
    sizes = [bench.scaled(rows) if rows > 1_000 else rows for rows in ROWS]
    rooms = bench.stage.open_rooms(len(sizes))
    for room, rows in zip(rooms, sizes, strict=True):
        fill(bench.stage, room, rows)
        say(f"  growth: {rows} votes stored in a poll beforehand")
    bench.stage.query("VACUUM ANALYZE votes")
    with ExitStack() as together:
        sides = [
            together.enter_context(bench.votemill_in([room], VOTERS, name=f"{rows} before"))
            for room, rows in zip(rooms, sizes, strict=True)
        ]
        bench.rounds("growth", sides)
    bench.stage.close_rooms(rooms)
    smallest, *larger = sides
    base = [turn.votes_per_s for turn in smallest.turns]
    database = [turn.cpu_us["postgres"] for turn in smallest.turns]
    rows_of_table = [Row("growth", f"durable votes, {smallest.name}", "1/s", base)]
    for side in larger:
        rate = [turn.votes_per_s for turn in side.turns]
        rows_of_table.append(
            Row("growth", f"durable votes, {side.name}", "1/s", rate, base, smallest.name, (Aim("ratio", ">=", _KEPT),))
        )
        mine = [turn.cpu_us["postgres"] for turn in side.turns]
        rows_of_table.append(
            Row("growth", f"PostgreSQL CPU per vote, {side.name}", "µs", mine, database, smallest.name)
        )
    return rows_of_table


def fill(stage: Stage, room: Room, rows: int) -> None:
    """Give a poll so many votes of nobody, in one transaction; tallies and version stay true to the rows."""
    stage.query(_FILL, {"room": room.code, "rows": rows})
