"""Promise 4: while RabbitMQ is away or full the node answers at once with a time to try again; it never hangs."""

from __future__ import annotations

import pytest

from scripts.faults.guest import Guest
from scripts.faults.load import Load
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.services import rabbitmq
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack
from tests.outages import probes
from tests.outages.conftest import Drill

pytestmark = second_stack
_PUBLISH_TIMEOUT_S = 5.0  # what was in flight when it hung is answered after this
_AT_ONCE_S = 1.0
_MORE_THAN_ANY_DISK = "1000000GB"


def assert_promise_4(stack: RunningStack, load: Load, room: str, guest: Guest) -> None:
    """What holds while RabbitMQ takes nothing. ``guest`` has joined the room."""
    node = stack.nodes[0]
    first = load.during(lambda: guest.vote(room, 1))
    assert first.comes_back_later and first.took_s < _PUBLISH_TIMEOUT_S + 2, first
    # From now on the node knows.
    second = load.during(lambda: guest.vote(room, 2))
    assert second.comes_back_later and second.took_s < _AT_ONCE_S, second
    probes.assert_put_off(load.during(lambda: probes.new_poll(node)), _AT_ONCE_S)
    known = load.during(lambda: probes.read_poll(node, room))
    assert known.status == 200, known
    health = load.during(lambda: probes.http_call(node, "GET", "/api/health"))
    assert health.status == 503 and health.body["dependencies"]["broker"]["status"] == "disconnected", health
    ready = load.during(lambda: probes.http_call(node, "GET", "/api/health/ready"))
    assert ready.status == 200, "a shared dependency must not make a node unready"
    assert load.until(lambda: load.progress().refused > 0, 10), "nobody of the crowd was told"


@pytest.mark.proves("FR-035", "FR-037", "FR-038", "FR-041", "SC-002", "US6.5", "E6")
def test_rabbitmq_killed_and_kept_down(
    drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, hold_s: float
) -> None:
    with drill("RabbitMQ killed, kept down") as load:
        load.strike(stack["rabbitmq"].kill_and_hold_down)
        assert_promise_4(stack, load, side_room.code, guest)
        close = load.during(lambda: probes.change_state(stack.nodes[0], side_room, "closed"))
        probes.assert_put_off(close, _AT_ONCE_S)
        load.hold(hold_s)
        load.during(stack["rabbitmq"].bring_back)
    # What was refused has not happened.
    wait_until(lambda: guest.vote(side_room.code, 3).success, 30, "the close that was refused holds")


@pytest.mark.proves("FR-035", "FR-037", "FR-041", "SC-002", "US6.5", "E6")
def test_rabbitmq_hung(drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, hold_s: float) -> None:
    with drill("RabbitMQ hung") as load:
        load.strike(stack["rabbitmq"].freeze)
        assert_promise_4(stack, load, side_room.code, guest)
        load.hold(hold_s)
        stack["rabbitmq"].thaw()


def test_a_close_whose_confirm_never_came_holds_at_its_node_and_is_applied(
    stack: RunningStack, side_room: rest.Room, guest: Guest
) -> None:
    # Given a broker that hangs the moment a close is sent, so that nobody knows whether it has it
    stack["rabbitmq"].freeze()
    probes.assert_put_off(probes.change_state(stack.nodes[0], side_room, "closed"), _PUBLISH_TIMEOUT_S + 5)
    # Then it holds at this node, which takes no vote that it would make void
    assert probes.read_poll(stack.nodes[0], side_room.code).body["state"] == "closed"
    assert not guest.vote(side_room.code, 1).success
    # And the close is applied when it can be
    stack["rabbitmq"].thaw()

    def closed(node: rest.Base) -> bool:
        return bool(probes.read_poll(node, side_room.code).body["final"])

    wait_until(lambda: all(closed(node) for node in stack.nodes), 60, "the close was not applied")


@pytest.mark.proves("FR-037", "FR-041", "SC-002", "US6.5", "E6")
def test_rabbitmq_disk_alarm(
    drill: Drill, stack: RunningStack, side_room: rest.Room, guest: Guest, hold_s: float
) -> None:
    with drill("RabbitMQ disk alarm") as load:
        try:
            load.strike(lambda: set_disk_free_limit(stack, _MORE_THAN_ANY_DISK))
            assert_promise_4(stack, load, side_room.code, guest)
            load.hold(hold_s)
        finally:
            load.during(lambda: set_disk_free_limit(stack, "200MB"))


def set_disk_free_limit(stack: RunningStack, limit: str) -> None:
    """Below the limit RabbitMQ takes no more messages."""
    with stack.folder.log("disk-alarm").open("w") as out:
        arguments = ["set_disk_free_limit", limit]
        assert rabbitmq.run_ctl(stack.folder, arguments, out) == 0, out.name
