"""After a restore every poll is newer than what was shown, Redis forgets, and the nodes are told."""

from collections.abc import Callable
from uuid import UUID

import msgspec
import pytest
import redis

from models import poll_store
from models.database import Database
from models.runtime.settings import Settings
from models.wire.commands import ClaimHost
from models.wire.notices import DatabaseRestored, HostsRevoked, StateChanged
from models.wire.polls import PollState
from tests.workers import given
from tests.workers.conftest import Node
from workers.after_restore import Reinstated, reinstate
from workers.cache import open_redis
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.outbox import Outbox
from workers.rooms import Rooms

AHEAD_US = 3_600_000_000

Reinstate = Callable[[], Reinstated]


@pytest.fixture
def rooms(settings: Settings) -> Rooms:
    return Rooms(open_redis(settings.redis), 60)


@pytest.fixture
def reinstated(database: Database, settings: Settings, rooms: Rooms, node: Node) -> Reinstate:
    """Says that the database was restored."""

    def run() -> Reinstated:
        metrics = WorkerMetrics(settings, "test")
        outbox = Outbox(settings.broker, metrics, "test")
        outbox.start()
        try:
            return reinstate(DatabaseGate(database, metrics), rooms, Notices(outbox))
        finally:
            outbox.close()

    return run


@pytest.mark.proves("FR-006")
def test_polls_become_newer_than_what_was_shown_and_redis_forgets_what_it_had(
    database: Database, rooms: Rooms, cache: redis.Redis, node: Node, reinstated: Reinstate
) -> None:
    # Given a closed poll in Redis, with what only nodes know, and an older one that nobody looks at
    with database.transaction():
        database.execute("TRUNCATE polls CASCADE")
    unseen, shown = given.open_poll(database), given.open_poll(database)
    with database.transaction():
        database.execute("UPDATE polls SET state = 'closed' WHERE id = %s", (unseen.poll_id,))
        # The clock of whoever changed it was ahead.
        database.execute("UPDATE polls SET version = %s WHERE id = %s", (given.now_us() + AHEAD_US, shown.poll_id))
    shown = given.stored(database, shown)
    rooms.store([shown], create=True)
    for kind in ("nicknames", "choices", "present"):
        cache.hset(f"room:{shown.room_code}:{kind}", "somebody", "1")
    cache.hset("browser:ab", "-", "")
    cache.zadd("nodes:alive", {"node": 1})
    # When the database is said to have been restored
    counts = reinstated()
    # Then both are newer than before
    assert (counts.polls, counts.told, counts.revoked) == (2, 1, 0)
    for before in (unseen, shown):
        after = given.stored(database, before)
        assert after.version > before.version
        assert after.state_changed_at_us > before.state_changed_at_us
    # And Redis has only what nodes have put there
    assert sorted(cache.keys()) == ["nodes:alive", f"room:{shown.room_code}:present"]
    # And the nodes were told of the one that was there
    notice = node.hears(StateChanged)
    assert (notice.poll, notice.poll.state) == (given.stored(database, shown), PollState.OPEN)
    assert node.hears(DatabaseRestored)


@pytest.mark.proves("FR-006", "FR-013")
def test_host_tokens_that_redis_knows_to_be_revoked_are_revoked_again(
    database: Database, rooms: Rooms, node: Node, reinstated: Reinstate
) -> None:
    # Given a poll whose host took it over, of which the database knows no more, and one of another id by a known code
    with database.transaction():
        database.execute("TRUNCATE polls CASCADE")
    taken, other = given.open_poll(database), given.open_poll(database)
    poll_store.claim_host(database, ClaimHost(taken.poll_id, UUID(int=0xB0), given.now_us(), token_generation=1))
    for poll, poll_id in ((taken, taken.poll_id), (other, other.poll_id + 1)):
        rooms.store([msgspec.structs.replace(poll, poll_id=poll_id, token_generation=500)], create=True)
    # When the database is said to have been restored
    assert reinstated().revoked == 1
    # Then the tokens of before are void again, as is the browser that hosted, and the nodes know
    stored = given.stored(database, taken)
    assert (stored.token_generation, stored.host_browsers) == (500, ())
    assert given.stored(database, other).token_generation == 1
    assert node.hears(HostsRevoked).poll == stored
