"""What the consumers of a command queue say of the commands that they hold.

RabbitMQ tells how many commands of a queue wait and how many consumers there are; what those hold, only they know. Each
process writes here, again and again, that it is there, how many commands it has given back so far, and the last
question that it can answer: "is everything decided that you held when you read this?"
"""

from dataclasses import dataclass
from uuid import UUID

from models.database import Database

STATE = """
INSERT INTO queue_consumers AS c (consumer_id, queue, returned, drained, seen_at)
VALUES (%(consumer_id)s, %(queue)s, %(returned)s, %(drained)s, clock_timestamp())
ON CONFLICT (consumer_id) DO UPDATE
  SET returned = excluded.returned, drained = excluded.drained, seen_at = excluded.seen_at
RETURNING coalesce((SELECT asked FROM queue_drains d WHERE d.queue = %(queue)s), 0)
"""

# Of six statements one has come.
READ_CONSUMERS = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, consumer_id, returned, drained FROM queue_consumers
WHERE queue = %s AND seen_at > clock_timestamp() - interval '3 s'
"""

# A time, so that a question from before a restore is never asked again.
ASK = """
INSERT INTO queue_drains AS d (queue, asked) VALUES (%s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (queue) DO UPDATE SET asked = greatest(d.asked + 1, excluded.asked) RETURNING asked
"""

FORGET_CONSUMERS = "DELETE FROM queue_consumers WHERE seen_at < clock_timestamp() - interval '1 hour'"


@dataclass(frozen=True, slots=True)
class Statement:
    """``returned``: how many commands it has given back or sent again, ever. ``drained``: the question it answers."""

    returned: int
    drained: int


def state(db: Database, consumer_id: UUID, queue: str, said: Statement) -> int:
    """Store what a consumer says; the newest question, 0 when there was none."""
    values = {"consumer_id": consumer_id, "queue": queue, "returned": said.returned, "drained": said.drained}
    with db.transaction():
        return int(db.execute(STATE, values).fetchone()[0])


def read_consumers(db: Database, queue: str) -> tuple[int, dict[UUID, Statement]]:
    """The time (microseconds, before anything that follows) and what those consumers say that were heard of lately."""
    with db.transaction():
        rows = db.execute(READ_CONSUMERS, (queue,)).fetchall()
    return min((row[0] for row in rows), default=0), {row[1]: Statement(row[2], row[3]) for row in rows}


def ask(db: Database, queue: str) -> int:
    """Ask a queue's consumers; whoever says this number, or a greater one, as ``drained`` has answered."""
    with db.transaction():
        db.execute(FORGET_CONSUMERS)
        return int(db.execute(ASK, (queue,)).fetchone()[0])
