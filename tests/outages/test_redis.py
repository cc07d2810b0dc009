"""Promise 3: while Redis is away votes in known rooms count and new joins wait; afterwards all is rebuilt."""

from __future__ import annotations

import pytest
import redis

from models.wire import names
from scripts.faults.guest import Guest
from scripts.faults.load import Load
from scripts.faults.stack import RunningStack, read_env
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack
from tests.outages import probes
from tests.outages.conftest import Drill

pytestmark = second_stack
_ANSWER_S = 6.0


def assert_promise_3(stack: RunningStack, load: Load, room: str, guest: Guest) -> None:
    """What holds while Redis is away. ``guest`` has joined the room."""
    node = stack.nodes[0]
    before = load.progress()
    newcomer = load.during(lambda: Guest(node))
    refused = load.during(lambda: newcomer.join(room, "Newcomer"))
    assert refused.comes_back_later and refused.took_s < _ANSWER_S, refused
    newcomer.close()
    again = load.during(lambda: Guest(node))
    resumed = load.during(lambda: again.join(room, "Regular", guest.token))
    assert resumed.success and resumed.body["reconnected"] is True, resumed
    assert resumed.body["participantId"] == guest.participant_id, resumed
    voted = load.during(lambda: again.vote(room, 1))
    assert voted.success, voted
    again.close()
    assert load.during(lambda: guest.hears("results-paused", 10)), "nobody said that the live results pause"
    known = load.during(lambda: probes.read_poll(node, room))
    assert known.status == 200, known
    token = read_env(stack.folder.process_env_file)["VOTEMILL_SECURITY__ADMIN_TOKEN"]
    levels = load.during(lambda: probes.http_call(node, "GET", "/api/config/log-level", token=token))
    assert levels.body["stale"] is True, "an operator may take old levels for the present ones"
    after = load.progress()
    assert after.acked > before.acked, "no vote was acked while Redis was away"
    assert after.refused == 0, "a vote was refused while Redis was away"


@pytest.mark.proves("FR-035", "FR-036", "FR-037", "FR-038", "SC-002", "US1.3", "US6.3")
def test_redis_killed_and_kept_down(
    drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, hold_s: float
) -> None:
    with drill("Redis killed, kept down") as load:
        load.strike(stack["redis"].kill_and_hold_down)
        assert_promise_3(stack, load, side_room.code, guest)
        load.hold(hold_s)
        load.during(stack["redis"].bring_back)
    assert guest.hears("results-resumed", 10), "nobody said that the live results are back"


@pytest.mark.proves("FR-035", "FR-037", "FR-038", "SC-002", "US6.3")
def test_redis_hung(drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, hold_s: float) -> None:
    with drill("Redis hung") as load:
        load.strike(stack["redis"].freeze)
        assert_promise_3(stack, load, side_room.code, guest)
        load.hold(hold_s)
        stack["redis"].thaw()
    assert guest.hears("results-resumed", 10), "nobody said that the live results are back"


@pytest.mark.proves("FR-003", "FR-030", "FR-038", "SC-002", "US1.5")
def test_redis_emptied(drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, redis_url: str) -> None:
    with drill("Redis emptied") as load, redis.Redis.from_url(redis_url, socket_timeout=2) as client:
        client.flushall()
        assert load.until(
            lambda: all(client.exists(names.room_key(room.code)) for room in (*load.rooms, side_room)), 5
        ), "the workers did not refill Redis"
        assert load.progress().refused == 0, "a vote was refused"
        stranger = load.during(lambda: Guest(stack.nodes[1]))
        # Nobody new gets in before each node had time to put back the names that the database need not have yet.
        taken = load.during(lambda: probes.decided(stranger, side_room.code, "Regular"))
        assert taken.body.get("error") == "Nickname already taken", taken
        assert load.during(lambda: stranger.join(side_room.code, "Stranger")).success
        stranger.close()
    wait_until(stack.healthy, 10, "a node is not ready")
