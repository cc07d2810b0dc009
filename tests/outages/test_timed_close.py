"""A poll that closes by itself does so at its time, whatever is away."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.breakable import first_stack
from tests.outages import probes

pytestmark = first_stack
_OPEN_S = 6


@pytest.mark.parametrize("away", ["postgres", "redis"])
def test_voting_ends_on_every_node_at_its_time_and_the_commit_follows(stack: RunningStack, away: str) -> None:
    # Given an open poll with a participant on each node
    room = rest.open_poll(stack.nodes[0], "Tea?", ["Yes", "No", "Later"], closeAfterS=_OPEN_S)
    guests = [Guest(node) for node in stack.nodes]
    for number, guest in enumerate(guests):
        assert guest.join(room.code, f"Guest {number}").success
        assert guest.vote(room.code, 0).success
    # When a server hangs before the time is over, and votes are still taken
    stack[away].freeze()
    for guest in guests:
        assert guest.vote(room.code, 1).success

    def state(node: rest.Base) -> object:
        return probes.read_poll(node, room.code).body.get("state")

    # Then every node ends the voting
    wait_until(lambda: all(state(node) == "closed" for node in stack.nodes), _OPEN_S + 10, "voting did not end")
    for guest in guests:
        assert guest.vote(room.code, 2).body["error"] == "Voting is not open"
    # And the close is committed when it can be, with all votes from before it and none from after
    stack[away].thaw()
    wait_until(lambda: all(rest.totals(node, room.code).final for node in stack.nodes), 40, "the close was not applied")
    for node in stack.nodes:
        assert rest.totals(node, room.code).votes == (0, len(guests), 0)
    for guest in guests:
        guest.close()


def test_a_poll_that_is_opened_while_the_database_hangs_is_open_for_its_whole_time(stack: RunningStack) -> None:
    # Given a poll that has been opened and closed, with a participant on each node
    room = rest.open_poll(stack.nodes[0], "Tea?", ["Yes", "No", "Later"], closeAfterS=_OPEN_S)
    rest.change_state(stack.nodes[0], room, "closed")
    guests = [Guest(node) for node in stack.nodes]
    for number, guest in enumerate(guests):
        assert guest.join(room.code, f"Guest {number}").success
    # When it is opened again while the database hangs, for longer than the nodes wait for an answer
    stack["postgres"].freeze()
    opened = probes.change_state(stack.nodes[0], room, "open")
    assert opened.body["pending"] is True, opened
    time.sleep(1)
    thawed_at = time.time()
    stack["postgres"].thaw()
    # Then every node shows an end that is the whole time away from when people could vote at the earliest
    wait_until(lambda: all(_closes_at(node, room) for node in stack.nodes), 30, "it was not opened")
    ends = {_closes_at(node, room) for node in stack.nodes}
    assert len(ends) == 1, ends
    assert ends.pop() >= thawed_at + _OPEN_S - 0.01  # shown in milliseconds
    for guest in guests:
        assert guest.vote(room.code, 1).success
        guest.close()


def _closes_at(node: rest.Base, room: rest.Room) -> float:
    """In seconds since the epoch; 0 while it is not open."""
    closes_at = probes.read_poll(node, room.code).body["closesAt"]
    return 0.0 if closes_at is None else datetime.fromisoformat(closes_at).timestamp()
