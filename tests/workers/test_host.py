"""Hosts' and members' commands through the real actors."""

import json
import time
from uuid import uuid4

import msgspec
import pytest

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


@pytest.fixture
def host(start):
    return start("host")


def soon_us():
    return given.now_us() + 5_000_000


@pytest.mark.proves("FR-001")
def test_a_poll_is_stored_shown_and_answered(host, amqp, node, database, cache):
    command = given.create_command(node.id)
    amqp.send(command)
    created = node.hears(PollCreated)
    assert created.request_id == command.command_id
    assert given.stored(database, created.poll) == shown(cache, created.poll) == created.poll


def test_a_request_whose_caller_has_stopped_waiting_is_dropped(host, amqp, queues, node):
    late = msgspec.structs.replace(given.create_command(node.id), deadline_us=given.now_us() - 1)
    amqp.send(late)
    eventually(lambda: host.metrics._counts["requests.expired"])
    with pytest.raises(pytest.fail.Exception):
        node.hears(PollCreated, 0.3)


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
    assert time.monotonic() - asked < 2
    # And when it returns, what waited is applied with its own time
    no_database(False)
    changed = node.hears(StateChanged)
    assert changed.poll.state_changed_at_us == close.at_us
    eventually(lambda: host.metrics._counts["registrations.stored"] == 10)


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
    assert [(one.option_index, one.nickname) for one in node.hears(ChoicesFetched).choices] == [(-1, "Ada")]
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
    assert participant_store.read_choices(database, poll.poll_id, [good])[0].nickname == "Ada"


@pytest.mark.proves("US1.4")
def test_a_close_becomes_final_when_every_node_has_flushed(host, amqp, node, database, cache):
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
    eventually(lambda: shown(cache, poll) and shown(cache, poll).final, 8)
    assert shown(cache, poll).votes == (3, 0, 0)
    assert shown(cache, poll).version > closed.version


def test_a_claimed_host_is_shown(host, amqp, database, cache):
    poll = given.open_poll(database)
    host.rooms.store([poll], create=True)
    browser = uuid4()
    amqp.send(ClaimHost(poll.poll_id, browser, given.now_us()))
    eventually(lambda: shown(cache, poll).host_browsers == (browser,))
