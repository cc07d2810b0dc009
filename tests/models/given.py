"""Short ways to say what a test starts from. Times are small numbers of microseconds; a clock is never read."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from models.database import Database
from models.poll_store import StateChange, change_state, create_poll, read_snapshots
from models.vote_store import StoredBatches, store_batches
from models.wire.commands import CastVote, ChangeState, CreatePoll, Registration, VoteBatch
from models.wire.polls import USUAL_RULES, PollRules, PollSnapshot, PollState

NODE = UUID(int=0xA)
OTHER_NODE = UUID(int=0xB)
OPENED_US = 1_000


def person(number: int) -> UUID:
    return UUID(int=number)


def poll(db: Database, options: int = 3, now_us: int = 1, rules: PollRules = USUAL_RULES) -> PollSnapshot:
    """A poll that waits to be opened."""
    return create_poll(db, create_command(options, rules=rules), retention_days=365_000, now_us=now_us)


def create_command(options: int = 3, browser_id: UUID | None = None, rules: PollRules = USUAL_RULES) -> CreatePoll:
    names = tuple(f"Option {number}" for number in range(options))
    return CreatePoll(uuid4(), NODE, "Tea or coffee?", names, "192.0.2.7", 0, browser_id=browser_id, rules=rules)


def open_poll(db: Database, options: int = 3, rules: PollRules = USUAL_RULES) -> PollSnapshot:
    """A poll that has been open since ``OPENED_US``."""
    return change(db, poll(db, options, rules=rules).poll_id, "open", OPENED_US).poll


def change(
    db: Database, poll_id: int, state: str, at_us: int, now_us: int | None = None, actor: str = "host"
) -> StateChange:
    command = ChangeState(uuid4(), NODE, poll_id, PollState(state), at_us, actor)
    return change_state(db, command, at_us if now_us is None else now_us)


def vote(poll_id: int, who: int, option: int, seq: int = 2_000, received_us: int | None = None) -> CastVote:
    """Received at ``seq`` unless said otherwise."""
    return CastVote(poll_id, person(who), option, seq if received_us is None else received_us, seq)


def batch(*votes: CastVote, node: UUID = NODE) -> VoteBatch:
    return VoteBatch(uuid4(), node, votes)


def store(db: Database, *votes: CastVote, now_us: int = 5_000) -> StoredBatches:
    """All votes as one batch."""
    return store_batches(db, [batch(*votes)], now_us)


def codes(stored: StoredBatches) -> list[list[tuple[int, str]]]:
    return [[(rejection.index, rejection.code) for rejection in one] for one in stored.rejections]


def totals(db: Database, poll_id: int) -> tuple[int, ...]:
    return snapshot(db, poll_id).votes


def snapshot(db: Database, poll_id: int) -> PollSnapshot:
    return read_snapshots(db, [poll_id])[0]


def rows(db: Database, sql: str, parameters: Sequence[object] = ()) -> list[tuple]:
    with db.transaction():
        return list(db.execute(sql, parameters).fetchall())


def registration(
    poll_id: int, who: int, nickname: str, joined_us: int = 10, browser: UUID | None = None
) -> Registration:
    return Registration(poll_id, person(who), nickname, nickname.casefold(), joined_us, browser)
