"""Registrations, and who is told of them."""

import json
from uuid import uuid4

import pytest

from models.wire import names
from models.wire.commands import RegisterParticipants, Registration, RestoreRoom
from models.wire.notices import RegistrationsStored, RoomRestored
from tests.workers import given
from tests.workers.conftest import eventually
from tests.workers.test_results import shown


@pytest.fixture
def host(start):
    return start("host")


def registration(poll, key, browser_id=None):
    return Registration(poll.poll_id, uuid4(), key.title(), key, given.now_us(), browser_id, poll.room_code)


def reserve(cache, one):
    """As a node does it."""
    cache.hset(names.nicknames_key(one.room_code), one.nickname_key, one.participant_id.hex)
    cache.hset(names.reserved_key(one.room_code), one.participant_id.hex, f"1 {one.nickname_key}")


def holders(cache, poll):
    """Those of nicknames that are more than reserved."""
    reserved = cache.hkeys(names.reserved_key(poll.room_code))
    return {key: who for key, who in cache.hgetall(names.nicknames_key(poll.room_code)).items() if who not in reserved}


def test_the_node_hears_of_registrations_when_they_are_stored_and_redis_has_their_nicknames(
    host, amqp, node, database, cache
):
    # Given two nicknames, one of which Redis has lost since
    poll, browser = given.open_poll(database), uuid4()
    ada, bo = registration(poll, "ada", browser), registration(poll, "bo")
    reserve(cache, ada)
    # When their participants are registered
    amqp.send(RegisterParticipants((ada, bo), reply_to=node.id))
    assert node.hears(RegistrationsStored).participant_ids == (ada.participant_id, bo.participant_id)
    # Then they hold them, and the browser of one can resume
    assert holders(cache, poll) == {"ada": ada.participant_id.hex, "bo": bo.participant_id.hex}
    role = cache.hget(names.browser_key(browser), names.browser_field(poll.room_code, ada.participant_id))
    assert json.loads(role)["nickname"] == "Ada"
    # And a room that is restored then lets nobody in who would not be let in before
    cache.flushall()
    amqp.send(RestoreRoom(uuid4(), node.id, poll.room_code, given.now_us() + 5_000_000))
    node.hears(RoomRestored)
    assert holders(cache, poll) == {"ada": ada.participant_id.hex, "bo": bo.participant_id.hex}
    assert cache.hget(names.room_key(poll.room_code), "restored") == "1"


def test_a_registration_holds_its_nickname_also_while_the_database_is_away(
    host, amqp, node, database, cache, no_database
):
    # Given a nickname that a killed node has reserved, and registered while the database is away
    poll = given.open_poll(database)
    ada = registration(poll, "ada")
    reserve(cache, ada)
    no_database(True)
    amqp.send(RegisterParticipants((ada,), reply_to=node.id))
    # Then it is held before the database has it
    eventually(lambda: holders(cache, poll) == {"ada": ada.participant_id.hex})
    no_database(False)
    node.hears(RegistrationsStored, within_s=60)


def test_a_registration_that_cannot_be_stored_holds_its_nickname(host, amqp, node, queues, database, cache):
    """Its participant was acked: it is in the room, and a person decides about the dead letter."""
    poll = given.open_poll(database)
    bad = registration(poll, "n\x00")
    reserve(cache, bad)
    amqp.send(RegisterParticipants((bad,), reply_to=node.id))
    amqp.take(f"{queues['members']}.dead")
    assert holders(cache, poll) == {"n\x00": bad.participant_id.hex}


def test_a_registration_by_a_node_of_an_earlier_version_is_stored(host, amqp, database, cache):
    poll = given.open_poll(database)
    host.rooms.store([poll], create=True)
    amqp.send(RegisterParticipants((Registration(poll.poll_id, uuid4(), "Ada", "ada", given.now_us()),)))
    eventually(lambda: host.metrics._counts["registrations.stored"])
    assert shown(cache, poll).poll_id == poll.poll_id
    assert cache.hget(names.room_key(poll.room_code), "restored") is None
