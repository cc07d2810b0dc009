"""``python -m workers.after_restore``, after PostgreSQL was restored to an earlier moment.

Browsers, nodes and Redis hold results and states that are newer than those in the database, and would drop what it says
now as outdated. This makes every poll newer than they are, has Redis forget what it took from the database, and tells
the nodes, which tell the browsers. Where Redis knows that host tokens were revoked since, they are revoked again. Polls
that are gone are cleared by the nodes, which then register anew who is connected in the others. It may run while votes
are counted, and again and again; exit code 75 when the database, Redis or RabbitMQ is away.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import redis

from models import poll_store
from models.database import DatabaseUnavailable, open_database
from models.runtime import logs
from models.runtime.clock import now_us
from models.runtime.settings import Settings, load_or_exit
from models.wire.commands import RevokeHosts
from models.wire.notices import DatabaseRestored, HostsRevoked, StateChanged
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


@dataclass(frozen=True, slots=True)
class Reinstated:
    """How many polls there are, of how many the nodes were told, and whose host tokens were revoked again."""

    polls: int
    told: int
    revoked: int


def reinstate(gate: DatabaseGate, rooms: Rooms, notices: Notices) -> Reinstated:
    """:raises DatabaseUnavailable, redis.RedisError, Unconfirmed: do it again"""
    polls = after = 0
    shown: list[PollSnapshot] = []
    revoked: list[PollSnapshot] = []
    while found := gate.call(lambda db: poll_store.raise_versions(db, after, _POLLS_AT_ONCE, now_us())):  # noqa: B023
        polls, after = polls + len(found), found[-1].poll_id
        known = rooms.snapshots([poll.room_code for poll in found])
        again = {poll.poll_id: poll for poll in _revoke_again(gate, found, known)}
        revoked += again.values()
        # Nobody looks at a poll that is not open and not in Redis.
        shown += [
            again.get(poll.poll_id, poll)
            for poll, before in zip(found, known, strict=True)
            if before or poll.state is PollState.OPEN
        ]
    # Before the nodes are told: one that reads a room again must not find there what is not true any more.
    rooms.forget_stored()
    for poll in shown:
        notices.tell_all_surely(StateChanged(NOBODY, poll, poll.state))
    for poll in revoked:
        notices.tell_all_surely(HostsRevoked(uuid4(), poll))
    notices.tell_all_surely(DatabaseRestored(now_us()))
    return Reinstated(polls, len(shown), len(revoked))


def _revoke_again(
    gate: DatabaseGate, polls: Sequence[PollSnapshot], known: Sequence[PollSnapshot | None]
) -> list[PollSnapshot]:
    """Of these polls those whose host tokens were revoked after the moment, as Redis has known them until now."""
    revoked = []
    for poll, before in zip(polls, known, strict=True):
        if before and before.poll_id == poll.poll_id and before.token_generation > poll.token_generation:
            command = RevokeHosts(uuid4(), NOBODY, poll.poll_id, before.token_generation)
            revoked.append(gate.call(lambda db: poll_store.revoke_hosts(db, command, now_us())))  # noqa: B023
    return revoked


def main() -> int:
    settings = load_or_exit()
    logs.configure(settings.log, service="votemill-after-restore", instance="restore", environment=settings.environment)
    try:
        done = _run(settings)
    except (DatabaseUnavailable, redis.RedisError, Unconfirmed) as error:
        print(f"after-restore: {error}; run it again", file=sys.stderr)
        return EX_TEMPFAIL
    print(f"{done.polls} polls stand as they are in the database now, the host tokens of {done.revoked} revoked again;")
    print(f"nodes were told of {done.told} that somebody may look at")
    return 0


def _run(settings: Settings) -> Reinstated:
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
