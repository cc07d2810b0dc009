"""Promise 2: while Postgres is away votes, joins of known rooms and closes go on, and the totals catch up."""

from __future__ import annotations

import pytest

from scripts.faults.guest import Guest
from scripts.faults.load import Load
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.breakable import first_stack
from tests.outages import probes
from tests.outages.conftest import Drill

pytestmark = first_stack
_ANSWER_S = 6.0  # two bounded waits of the node, on a busy machine


def assert_promise_2(stack: RunningStack, load: Load, room: rest.Room) -> None:
    """What holds while Postgres is away. The close of ``room`` is left pending."""
    node = stack.nodes[0]
    before = load.progress()
    probes.assert_put_off(load.during(lambda: probes.new_poll(node)), _ANSWER_S)
    probes.assert_put_off(load.during(lambda: probes.read_poll(node, probes.unknown_code())), _ANSWER_S)
    known = load.during(lambda: probes.read_poll(node, load.rooms[0].code))
    assert known.status == 200 and sum(known.body["votes"]) > 0, known
    latecomer = load.during(lambda: Guest(node))
    assert load.during(lambda: latecomer.join(load.rooms[0].code, "Latecomer")).success
    latecomer.close()
    closed = load.during(lambda: probes.change_state(node, room, "closed"))
    assert closed.status == 200 and closed.body["pending"] is True, closed
    assert load.until(lambda: _closed_everywhere(stack, room), 3), "the close does not hold on every node"
    after = load.progress()
    assert after.acked > before.acked, "no vote was acked while Postgres was away"
    assert after.refused == 0, "a vote was refused while Postgres was away"


def assert_caught_up(stack: RunningStack, room: rest.Room) -> None:
    """The pending close is applied, with a final version, on every node."""
    wait_until(lambda: all(rest.totals(node, room.code).final for node in stack.nodes), 20, "the close was not applied")


def _closed_everywhere(stack: RunningStack, room: rest.Room) -> bool:
    return all(probes.read_poll(node, room.code).body.get("state") == "closed" for node in stack.nodes)


@pytest.mark.proves("FR-035", "FR-036", "FR-037", "FR-038", "SC-002", "US6.1", "US6.3")
def test_postgres_killed_and_kept_down(drill: Drill, stack: RunningStack, side_room: rest.Room, hold_s: float) -> None:
    with drill("PostgreSQL killed, kept down") as load:
        load.strike(stack["postgres"].kill_and_hold_down)
        assert_promise_2(stack, load, side_room)
        load.hold(hold_s)
        load.during(stack["postgres"].bring_back)
    assert_caught_up(stack, side_room)


@pytest.mark.proves("FR-035", "FR-036", "FR-037", "FR-038", "SC-002", "US6.1", "US6.3")
def test_postgres_hung(drill: Drill, stack: RunningStack, side_room: rest.Room, hold_s: float) -> None:
    with drill("PostgreSQL hung") as load:
        load.strike(stack["postgres"].freeze)
        assert_promise_2(stack, load, side_room)
        load.hold(hold_s)
        stack["postgres"].thaw()
    assert_caught_up(stack, side_room)


@pytest.mark.proves("FR-003", "FR-035", "SC-002", "US1.5")
def test_postgres_restarted(drill: Drill, stack: RunningStack) -> None:
    with drill("PostgreSQL restarted") as load:
        load.during(stack["postgres"].restart)
        assert load.progress().refused == 0, "a vote was refused"
