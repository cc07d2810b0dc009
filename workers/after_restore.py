"""``python -m workers.after_restore``, after PostgreSQL was restored to an earlier moment.

Browsers, nodes and Redis hold results and states that are newer than those in the database, and would drop what it says
now as outdated. This makes every poll newer than they are, has Redis forget what it took from the database, and tells
the nodes, which tell the browsers. It may run while votes are counted, and again and again; exit code 75 when the
database, Redis or RabbitMQ is away.
"""

import logging
import sys

import redis

from models import poll_store
from models.database import DatabaseUnavailable, open_database
from models.runtime import logs
from models.runtime.clock import now_us
from models.runtime.settings import Settings, load_or_exit
from models.wire.notices import StateChanged
from models.wire.polls import PollSnapshot, PollState
from workers.cache import open_redis
from workers.database_gate import DatabaseGate
from workers.finals import NOBODY
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.outbox import Outbox, Unconfirmed
from workers.rooms import Rooms

log = logging.getLogger(__name__)

EX_TEMPFAIL = 75  # sysexits.h
_POLLS_AT_ONCE = 200  # their rows are locked together


def reinstate(gate: DatabaseGate, rooms: Rooms, notices: Notices) -> tuple[int, int]:
    """How many polls there are, and of how many the nodes were told.

    :raises DatabaseUnavailable, redis.RedisError, Unconfirmed: do it again
    """
    polls = told = after = 0
    shown: list[PollSnapshot] = []
    while found := gate.call(lambda db: poll_store.raise_versions(db, after, _POLLS_AT_ONCE, now_us())):  # noqa: B023
        polls, after = polls + len(found), found[-1].poll_id
        known = rooms.versions([poll.room_code for poll in found])
        # Nobody looks at a poll that is not open and not in Redis.
        shown += [poll for poll, version in zip(found, known, strict=True) if version or poll.state is PollState.OPEN]
    # Before the nodes are told: one that reads a room again must not find there what is not true any more.
    rooms.forget_stored()
    for poll in shown:
        notices.tell_all_surely(StateChanged(NOBODY, poll, poll.state))
        told += 1
    return polls, told


def main() -> int:
    settings = load_or_exit()
    logs.configure(settings.log, service="votemill-after-restore", instance="restore", environment=settings.environment)
    try:
        polls, told = _run(settings)
    except (DatabaseUnavailable, redis.RedisError, Unconfirmed) as error:
        print(f"after-restore: {error}; run it again", file=sys.stderr)
        return EX_TEMPFAIL
    print(f"{polls} polls stand as they are in the database now; nodes were told of {told} that somebody may look at")
    return 0


def _run(settings: Settings) -> tuple[int, int]:
    metrics = WorkerMetrics(settings, "after-restore")
    gate = DatabaseGate(open_database(settings.database, "votemill-after-restore"), metrics)
    outbox = Outbox(settings.broker, metrics, "after-restore")
    outbox.start()
    try:
        rooms = Rooms(open_redis(settings.redis), settings.redis.room_ttl_s)
        return reinstate(gate, rooms, Notices(outbox))
    finally:
        outbox.close()
        gate.close()


if __name__ == "__main__":
    sys.exit(main())
