"""Joins that are cut off leave no name and no place behind, and those that were acked keep theirs, whatever dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2
import pytest
import redis

from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.loadtest.connection import ConnectionLost
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack
from tests.outages.probes import decided

pytestmark = second_stack
_TRIES = 3  # in one of them at least Redis has the command, but for a heartbeat that was just in the way


@pytest.fixture
def new_guest(stack: RunningStack) -> Iterator[Callable[..., Guest]]:
    """Connects somebody to a node, by number."""
    guests: list[Guest] = []

    def new(node: int = 0) -> Guest:
        guests.append(Guest(stack.nodes[node]))
        return guests[-1]

    yield new
    for guest in guests:
        guest.close()


@contextmanager
def frozen(stack: RunningStack, name: str) -> Iterator[None]:
    stack[name].freeze()
    try:
        yield
    finally:
        stack[name].thaw()


def refused(guest: Guest, room: str, nickname: str) -> object:
    answer = decided(guest, room, nickname)
    return answer.success or answer.body["error"]


def participants(stack: RunningStack, room: str) -> int:
    query = "SELECT count(*) FROM participants p JOIN polls ON polls.id = p.poll_id WHERE room_code = %s"
    connection = psycopg2.connect(stack.dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, (room,))
            return int(cursor.fetchone()[0])  # type: ignore[index]  # a count is always there
    finally:
        connection.close()


@pytest.mark.proves("FR-004", "FR-037", "FR-038")
def test_who_was_refused_while_redis_stopped_can_come_again(
    stack: RunningStack, new_guest: Callable[..., Guest]
) -> None:
    # Given a room with one place
    for _ in range(_TRIES):
        room = rest.open_poll(stack.nodes[0], "One?", ["Yes", "No"], maxParticipants=1).code
        first, other = new_guest(0), new_guest(1)
        for node in stack.nodes:
            rest.totals(node, room)
        # When Redis stops during a join
        with frozen(stack, "redis"):
            assert first.join(room, "Ada").comes_back_later
        # Then somebody else gets the name, and the place
        assert decided(other, room, "Ada").success
        assert refused(first, room, "Ada") == "Nickname already taken"
        assert refused(first, room, "Bo") == "Room is full"


@pytest.mark.proves("FR-004", "FR-037", "FR-038")
def test_a_node_killed_between_taking_a_name_and_registering_leaves_it_free(
    stack: RunningStack, new_guest: Callable[..., Guest]
) -> None:
    room = rest.open_poll(stack.nodes[0], "One?", ["Yes", "No"], maxParticipants=1).code
    for node in stack.nodes:
        rest.totals(node, room)
    first, other = Guest(stack.nodes[0]), new_guest(1)
    node = stack.of_kind("node")[0]
    with ThreadPoolExecutor() as threads:
        # Given a node that has asked Redis for the name, and is dead when Redis answers
        with frozen(stack, "redis"):
            joining = threads.submit(first.join, room, "Ada")
            time.sleep(0.3)
            node.kill_and_hold_down()
        with pytest.raises(ConnectionLost):
            joining.result()
    # Then others get it when it is certain that nobody was registered
    assert decided(other, room, "Bo").success
    node.bring_back()


@pytest.mark.proves("FR-003", "FR-004", "FR-038")
def test_names_and_limit_hold_in_an_emptied_redis_against_registrations_that_wait(
    stack: RunningStack, new_guest: Callable[..., Guest], redis_url: str
) -> None:
    # Given a full room whose registrations wait in the queue, and a vote, by which a worker will restore the room
    room = rest.open_poll(stack.nodes[0], "Three?", ["Yes", "No"], maxParticipants=3).code
    for node in stack.nodes:
        rest.totals(node, room)
    newcomers = [new_guest(number % 2) for number in range(4)]
    with frozen(stack, "host-worker-1"):
        crowd = [new_guest(number % 2) for number in range(3)]
        for number, guest in enumerate(crowd):
            assert guest.join(room, f"v{number}").success
        assert refused(newcomers[0], room, "v9") == "Room is full"
        assert participants(stack, room) == 0
        # When Redis is emptied
        with redis.Redis.from_url(redis_url, socket_timeout=2) as client:
            client.flushall()
        assert crowd[0].vote(room, 0).success
        # Then nobody gets a name that is taken, or one too many
        answers = [refused(guest, room, f"v{number}") for number, guest in enumerate(newcomers)]
        assert answers == ["Nickname already taken"] * 3 + ["Room is full"]
    # And also when they are stored, and it is emptied again
    wait_until(lambda: participants(stack, room) == 3, 60, "the registrations are not stored")
    with redis.Redis.from_url(redis_url, socket_timeout=2) as client:
        client.flushall()
    assert [refused(guest, room, f"v{number}") for number, guest in enumerate(newcomers)] == answers
