"""After a restore every poll is newer than what was shown, Redis forgets, and the nodes are told."""

import pytest
import redis

from models.database import Database
from models.runtime.settings import Settings
from models.wire.notices import StateChanged
from models.wire.polls import PollState
from tests.workers import given
from tests.workers.conftest import Node
from workers.after_restore import reinstate
from workers.cache import open_redis
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.outbox import Outbox
from workers.rooms import Rooms

AHEAD_US = 3_600_000_000


@pytest.mark.proves("FR-006")
def test_polls_become_newer_than_what_was_shown_and_redis_forgets_what_it_had(
    database: Database, settings: Settings, cache: redis.Redis, node: Node
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
    rooms = Rooms(open_redis(settings.redis), 60)
    rooms.store([shown], create=True)
    for kind in ("nicknames", "choices", "present"):
        cache.hset(f"room:{shown.room_code}:{kind}", "somebody", "1")
    cache.hset("browser:ab", "-", "")
    cache.zadd("nodes:alive", {"node": 1})
    metrics = WorkerMetrics(settings, "test")
    outbox = Outbox(settings.broker, metrics, "test")
    outbox.start()
    gate = DatabaseGate(database, metrics)
    # When the database is said to have been restored
    counts = reinstate(gate, rooms, Notices(outbox))
    outbox.close()
    # Then both are newer than before
    assert counts == (2, 1)
    for before in (unseen, shown):
        after = given.stored(database, before)
        assert after.version > before.version
        assert after.state_changed_at_us > before.state_changed_at_us
    # And Redis has only what nodes have put there
    assert sorted(cache.keys()) == ["nodes:alive", f"room:{shown.room_code}:present"]
    # And the nodes were told of the one that was there
    notice = node.hears(StateChanged)
    assert (notice.poll, notice.poll.state) == (given.stored(database, shown), PollState.OPEN)
