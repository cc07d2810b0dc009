"""Hosts' and members' commands through the real actors."""

import json
import threading
import time
from uuid import uuid4

import msgspec
import pytest
import redis

from models import participant_store, poll_store, vote_store
from models.wire import names
from models.wire.commands import (
    ClaimHost,
    FetchChoices,
    NodeHeartbeat,
    PollFlushed,
    RegisterParticipants,
    Registration,
    RestoreBrowser,
    RestoreRoom,
)
from models.wire.notices import (
    BrowserRestored,
    ChoicesFetched,
    CommandFailed,
    PollCreated,
    RoomRestored,
    StateChanged,
    WorkerHeartbeat,
)
from models.wire.polls import PollState
from tests.workers import given
from tests.workers.conftest import eventually
from tests.workers.test_results import shown
from workers.notices import Notices
from workers.outbox import Unconfirmed
from workers.rooms import Rooms


@pytest.fixture
def host(start):
    return start("host")


def registered(database, poll):
    with database.transaction():
        query = "SELECT count(*) FROM participants WHERE poll_id = %s"
        return database.execute(query, (poll.poll_id,)).fetchone()[0]


def soon_us():
    return given.now_us() + 5_000_000


@pytest.mark.proves("FR-001")
def test_a_poll_is_stored_shown_and_answered(host, amqp, node, database, cache):
    command = given.create_command(node.id)
    amqp.send(command)
    created = node.hears(PollCreated)
    assert created.request_id == command.command_id
    assert given.stored(database, created.poll) == shown(cache, created.poll) == created.poll


@pytest.mark.proves("FR-006")
def test_a_new_poll_inherits_nothing_of_a_lost_one_with_its_room_code(
    host, amqp, node, database, cache, settings, monkeypatch
):
    # Given what Redis keeps of a poll that the database has lost, with a clock that was ahead
    lost = given.open_poll(database)
    with database.transaction():
        database.execute("DELETE FROM polls WHERE id = %s", (lost.poll_id,))
    rooms = Rooms(redis.Redis.from_url(settings.redis.url), 60)
    rooms.store([msgspec.structs.replace(lost, version=given.now_us() + 3_600_000_000)], create=True)
    for key in (names.nicknames_key, names.choices_key, names.claim_key):
        cache.hset(key(lost.room_code), "ada", "1")
    # When the next poll gets its code
    monkeypatch.setattr(poll_store, "new_room_code", lambda: lost.room_code)
    amqp.send(given.create_command(node.id))
    made = node.hears(PollCreated).poll
    # Then it is shown, and nothing of the other one is left
    assert (made.room_code, made.poll_id != lost.poll_id) == (lost.room_code, True)
    assert shown(cache, made) == made
    assert cache.keys(f"room:{made.room_code}*") == [names.room_key(made.room_code)]


def test_a_request_whose_caller_has_stopped_waiting_is_dropped(host, amqp, queues, node):
    late = msgspec.structs.replace(given.create_command(node.id), deadline_us=given.now_us() - 6_000_000)
    amqp.send(late)
    eventually(lambda: host.metrics._counts["requests.expired"])
    with pytest.raises(pytest.fail.Exception):
        node.hears(PollCreated, 0.3)


def test_a_request_from_a_node_whose_clock_is_behind_is_served(host, amqp, node):
    amqp.send(msgspec.structs.replace(given.create_command(node.id), deadline_us=given.now_us() - 3_000_000))
    assert node.hears(PollCreated)


def test_every_node_learns_of_a_state_change_and_a_repeat_is_answered_again(host, amqp, node, database, cache):
    poll = poll_store.create_poll(database, given.create_command(), retention_days=30, now_us=given.now_us())
    command = given.change_command(poll, "open")
    amqp.send(command)
    amqp.send(command)
    for _ in range(2):
        change = node.hears(StateChanged)
        assert (change.request_id, change.previous_state) == (command.command_id, PollState.WAITING)
        assert change.poll.state is PollState.OPEN
    eventually(lambda: shown(cache, poll) and shown(cache, poll).state is PollState.OPEN)


def test_a_state_change_that_no_node_could_be_told_of_is_not_done_with(host, amqp, node, database, monkeypatch):
    told = []
    tell = Notices.tell_all_surely

    def flaky(self, notice):
        told.append(notice)
        if len(told) == 1:
            raise Unconfirmed("no confirm")
        tell(self, notice)

    monkeypatch.setattr(Notices, "tell_all_surely", flaky)
    poll = given.open_poll(database)
    amqp.send(given.change_command(poll, "closed"))
    assert node.hears(StateChanged).poll.state is PollState.CLOSED
    assert len(told) == 2


def test_a_state_change_of_a_poll_that_is_gone_is_refused(host, amqp, node, database):
    gone = msgspec.structs.replace(given.change_command(given.open_poll(database), "closed", node.id), poll_id=10**9)
    amqp.send(gone)
    assert node.hears(CommandFailed).error == "Poll not found"


@pytest.mark.proves("FR-037", "FR-039", "US6.3")
def test_requests_are_answered_at_once_and_changes_wait_while_the_database_is_away(
    host, amqp, node, database, no_database
):
    # Given the database is away, and more writes wait than this worker has threads
    poll = given.open_poll(database)
    no_database(True)
    close = given.change_command(poll, "closed", node.id)
    for _ in range(10):
        amqp.send(RegisterParticipants((Registration(poll.poll_id, uuid4(), "n", uuid4().hex, given.now_us()),)))
    amqp.send(close)
    eventually(lambda: host.gate.breaker.state != "closed")
    # When somebody asks
    amqp.send(RestoreRoom(uuid4(), node.id, poll.room_code, soon_us()))
    asked = time.monotonic()
    refused = node.hears(CommandFailed)
    # Then they are told to come back, soon
    assert (refused.code, refused.retry_after_s) == ("database_unavailable", 2)
    assert "database" not in refused.error
    assert time.monotonic() - asked < 10  # what waits for the database waits for as long as it is away
    # And when it returns, what waited is applied with its own time
    no_database(False)
    changed = node.hears(StateChanged)
    assert changed.poll.state_changed_at_us == close.at_us
    eventually(lambda: registered(database, poll) == 10)


@pytest.mark.proves("FR-037")
def test_a_request_gets_past_registrations_that_fill_the_prefetch_while_the_database_is_away(
    host, amqp, queues, node, database, no_database, settings
):
    # Given more registrations in the queue than this worker takes in advance, and the database is away
    poll = given.open_poll(database)
    no_database(True)
    many = settings.worker.prefetch * 3
    for _ in range(many):
        amqp.send(RegisterParticipants((Registration(poll.poll_id, uuid4(), "n", uuid4().hex, given.now_us()),)))
    eventually(lambda: host.gate.breaker.state != "closed")
    # When somebody asks: then they are told to come back, at once
    amqp.send(RestoreRoom(uuid4(), node.id, poll.room_code, soon_us()))
    assert node.hears(CommandFailed, 10).code == "database_unavailable"
    # And no registration is lost
    no_database(False)
    eventually(lambda: registered(database, poll) == many, 15)
    assert amqp.is_empty(f"{queues['members']}.dead")


def test_heartbeats_of_nodes_do_not_pile_up_while_the_database_is_away(
    host, amqp, queues, node, no_database, monkeypatch
):
    monkeypatch.setattr(host.metrics, "flush", lambda: None)  # which starts counting from 0
    no_database(True)
    for _ in range(5):
        amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
    eventually(lambda: host.metrics._counts["heartbeats.dropped"] == 5)
    no_database(False)
    assert amqp.is_empty(queues["host"])


def test_the_goodbye_of_a_node_waits_for_the_database(host, amqp, node, database, no_database):
    no_database(True)
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us(), stopped=True))
    eventually(lambda: host.metrics._counts["messages.stepped_aside"])
    no_database(False)

    def stopped():
        with database.transaction():
            return database.execute("SELECT stopped FROM nodes WHERE node_id = %s", (node.id,)).fetchone()

    assert eventually(stopped) == (True,)


def test_a_state_change_does_not_wait_for_a_redis_that_is_known_to_be_away(
    host, amqp, node, database, cache, monkeypatch
):
    # Given a Redis that hangs
    tries = []
    store = Rooms.store

    def hangs(self, polls, *, create=False):
        tries.append(threading.current_thread().name)
        raise redis.TimeoutError("hangs")

    monkeypatch.setattr(Rooms, "store", hangs)
    poll = given.open_poll(database)
    # When its state changes several times
    for state in ("closed", "open", "closed"):
        amqp.send(given.change_command(poll, state))
        assert node.hears(StateChanged)
    # Then only the first change tried Redis by itself; the rest is up to the publisher
    assert len([name for name in tries if name != "results"]) == 1
    # And when Redis is back, it shows the last state without another change
    monkeypatch.setattr(Rooms, "store", store)
    eventually(lambda: shown(cache, poll) and shown(cache, poll).state is PollState.CLOSED)
    assert host.results.redis_ok


@pytest.mark.proves("FR-018")
def test_heartbeats_tell_of_the_database_also_while_it_is_away(host, node, no_database):
    no_database(True)
    eventually(lambda: node.hears(WorkerHeartbeat).database == "disconnected", 8)
    no_database(False)
    eventually(lambda: node.hears(WorkerHeartbeat).database == "connected", 8)


@pytest.mark.proves("FR-003", "FR-004")
def test_a_room_is_restored_nicknames_first(host, amqp, node, database, cache):
    poll = given.open_poll(database)
    who, browser = uuid4(), uuid4()
    participant_store.register(database, [Registration(poll.poll_id, who, "Ada", "ada", given.now_us(), browser)])
    cache.flushall()
    amqp.send(RestoreRoom(uuid4(), node.id, poll.room_code, soon_us()))
    assert node.hears(RoomRestored).poll.poll_id == poll.poll_id
    assert shown(cache, poll).poll_id == poll.poll_id
    assert cache.hget(names.nicknames_key(poll.room_code), "ada") == who.hex
    # And what is known of one participant and one cookie
    amqp.send(FetchChoices(uuid4(), node.id, poll.poll_id, (who,), soon_us()))
    assert [(one.option_index, one.seq) for one in node.hears(ChoicesFetched).choices] == [(-1, 0)]
    amqp.send(RestoreBrowser(uuid4(), node.id, browser, soon_us()))
    assert [role.participant_id for role in node.hears(BrowserRestored).roles] == [who]
    hash_ = cache.hgetall(names.browser_key(browser))
    assert json.loads(hash_[names.browser_field(poll.room_code, who)])["participant_id"] == str(who)
    assert names.BROWSER_COMPLETE in hash_


def test_a_room_that_does_not_exist_is_answered_with_none(host, amqp, node):
    amqp.send(RestoreRoom(uuid4(), node.id, "222222", soon_us()))
    assert node.hears(RoomRestored).poll is None


def test_a_registration_that_cannot_be_stored_costs_none_of_the_others(host, amqp, queues, database):
    poll = given.open_poll(database)
    good, bad = uuid4(), uuid4()
    amqp.send(
        RegisterParticipants(
            (
                Registration(poll.poll_id, bad, "nul", "n\x00", given.now_us()),
                Registration(poll.poll_id, good, "Ada", "ada", given.now_us()),
            )
        )
    )
    headers, _ = amqp.take(f"{queues['members']}.dead")
    assert headers["reason"] == "not_storable"
    ((_, stored),) = [one for chunk in poll_store.read_nicknames(database, poll.poll_id) for one in chunk]
    assert stored == good


@pytest.mark.proves("US1.4")
def test_a_close_becomes_final_when_every_node_has_flushed(host, start, amqp, node, database, cache):
    start("votes")  # nodes of other tests have died a moment ago
    # Given a closed poll, with one batch from one living node
    poll = given.open_poll(database)
    amqp.send(NodeHeartbeat(node.id, "node-1", given.now_us()))
    vote_store.store_batches(database, [given.votes(poll, 3, node.id)], given.now_us())
    amqp.send(given.change_command(poll, "closed", node.id))
    closed = node.hears(StateChanged).poll
    assert not closed.final
    # When the node reports that it has published just that
    amqp.send(PollFlushed(poll.poll_id, closed.state_changed_at_us, node.id, 1))
    # Then the final version is published
    eventually(lambda: shown(cache, poll) and shown(cache, poll).final, 45)
    assert shown(cache, poll).votes == (3, 0, 0)
    assert shown(cache, poll).version > closed.version


def test_a_claimed_host_is_shown(host, amqp, database, cache):
    poll = given.open_poll(database)
    host.rooms.store([poll], create=True)
    browser = uuid4()
    amqp.send(ClaimHost(poll.poll_id, browser, given.now_us()))
    eventually(lambda: shown(cache, poll).host_browsers == (browser,))
