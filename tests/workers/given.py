"""Short ways to say what a test starts from."""

import time
from uuid import UUID, uuid4

from models import poll_store
from models.database import Database
from models.wire.commands import CastVote, ChangeState, CreatePoll, VoteBatch
from models.wire.polls import PollSnapshot, PollState

NOBODY = UUID(int=0)


def now_us() -> int:
    return time.time_ns() // 1000


def create_command(node_id: UUID = NOBODY) -> CreatePoll:
    return CreatePoll(uuid4(), node_id, "Tea?", ("yes", "no", "later"), "192.0.2.7", now_us() + 5_000_000)


def change_command(poll: PollSnapshot, state: str, node_id: UUID = NOBODY) -> ChangeState:
    return ChangeState(uuid4(), node_id, poll.poll_id, PollState(state), now_us(), "host")


def open_poll(database: Database) -> PollSnapshot:
    poll = poll_store.create_poll(database, create_command(), retention_days=30, now_us=now_us())
    return poll_store.change_state(database, change_command(poll, "open"), now_us()).poll


def vote(poll: PollSnapshot, option: int = 0, who: UUID | None = None) -> CastVote:
    at_us = now_us()
    return CastVote(poll.poll_id, who or uuid4(), option, at_us, at_us)


def votes(poll: PollSnapshot, count: int, node_id: UUID = NOBODY) -> VoteBatch:
    return VoteBatch(uuid4(), node_id, tuple(vote(poll) for _ in range(count)))


def stored(database: Database, poll: PollSnapshot) -> PollSnapshot:
    return poll_store.read_snapshots(database, [poll.poll_id])[0]
