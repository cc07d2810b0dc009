"""Votes through the real actor: merged, answered, and none lost for another's sake."""

import json

import msgspec
import pytest
import redis

from models import vote_store
from models.wire import names
from models.wire.choices import refused_field
from models.wire.commands import CastVote, VoteBatch
from models.wire.notices import BatchApplied
from tests.workers import given
from tests.workers.conftest import eventually
from workers import outbox
from workers.rooms import Rooms

HUGE = 2**63  # one more than a bigint can hold


@pytest.mark.proves("FR-002")
def test_a_batch_is_counted_and_its_node_is_told_after_the_commit(start, amqp, node, database):
    poll = given.open_poll(database)
    start("votes")
    batch = given.votes(poll, 3, node.id)
    amqp.send(batch)
    applied = node.hears(BatchApplied)
    assert (applied.batch_id, applied.rejected) == (batch.batch_id, ())
    assert given.stored(database, poll).votes == (3, 0, 0)


@pytest.mark.proves("SC-002")
def test_a_batch_delivered_twice_counts_once_and_is_answered_twice(start, amqp, node, database):
    poll = given.open_poll(database)
    start("votes")
    batch = given.votes(poll, 3, node.id)
    amqp.send(batch)
    amqp.send(batch)
    assert [node.hears(BatchApplied).rejected for _ in range(2)] == [(), ()]
    assert given.stored(database, poll).votes == (3, 0, 0)


def test_batches_that_wait_together_are_stored_in_one_transaction(start, amqp, queues, node, database):
    # Given a backlog
    poll = given.open_poll(database)
    for _ in range(60):
        amqp.send(given.votes(poll, 5, node.id))
    # When it is worked off
    start("votes")
    eventually(lambda: given.stored(database, poll).votes == (300, 0, 0))
    # Then transactions were far fewer than batches
    with database.transaction():
        (ids,) = database.execute(
            "SELECT count(DISTINCT xmin::text) FROM applied_batches WHERE node_id = %s", (node.id,)
        ).fetchone()
    assert ids <= 40


@pytest.mark.parametrize("place", [0, 250, 499])
def test_one_poison_vote_costs_none_of_the_other_499(start, amqp, queues, node, database, place):
    # Given a batch with one vote that the database can't hold
    poll = given.open_poll(database)
    votes = list(given.votes(poll, 500, node.id).votes)
    votes[place] = CastVote(poll.poll_id, given.uuid4(), 0, given.now_us(), HUGE)
    votes[10] = msgspec.structs.replace(votes[10], option_index=9)
    batch = VoteBatch(given.uuid4(), node.id, tuple(votes))
    start("votes")
    amqp.send(batch)
    # Then its voter and the one with the invalid option are told, each by its place in the batch
    rejected = node.hears(BatchApplied).rejected
    assert {(one.index, one.code) for one in rejected} == {(place, "not_storable"), (10, "invalid_option")}
    # And the others are counted
    assert given.stored(database, poll).votes == (498, 0, 0)
    # And the vote lies in the dead-letter queue, by itself, with its reason and where it came from
    headers, body = amqp.take(f"{queues['votes']}.dead")
    message = json.loads(body)
    assert headers["reason"] == "not_storable"
    assert message["options"] == {"original_batch_id": str(batch.batch_id), "original_index": place}
    assert msgspec.convert(message["args"][0], VoteBatch).votes == (votes[place],)
    assert amqp.is_empty(queues["votes"])


@pytest.mark.proves("US1.4")
def test_a_batch_of_nothing_but_poison_counts_for_its_polls(start, amqp, queues, node, database):
    # Given a batch that holds one poll's only vote, which can't be stored
    poll, other = given.open_poll(database), given.open_poll(database)
    poison = CastVote(poll.poll_id, given.uuid4(), 1, given.now_us(), HUGE)
    start("votes")
    # When it arrives alone, and beside a vote of another poll
    amqp.send(VoteBatch(given.uuid4(), node.id, (poison,)))
    (rejected,) = node.hears(BatchApplied).rejected
    amqp.send(VoteBatch(given.uuid4(), node.id, (poison, given.vote(other))))
    node.hears(BatchApplied)
    # Then the node's account says that they were applied, and the voter's node learns whose vote it was
    with database.transaction():
        counted = database.execute(
            "SELECT poll_id, batches FROM poll_batches WHERE node_id = %s", (node.id,)
        ).fetchall()
    assert dict(counted) == {poll.poll_id: 2, other.poll_id: 1}
    assert (rejected.participant_id, rejected.option_index) == (poison.participant_id, 1)
    assert rejected.room_code == poll.room_code


def test_a_batch_that_failed_without_a_vote_to_blame_is_tried_again(start, amqp, queues, node, database, monkeypatch):
    # Given an error that is gone by the time of the search for its cause
    failed = []
    store = vote_store.store_batches

    def flaky(*arguments):
        if not failed:
            failed.append(arguments)
            raise ValueError("out of the blue")
        return store(*arguments)

    monkeypatch.setattr(vote_store, "store_batches", flaky)
    poll = given.open_poll(database)
    start("votes")
    amqp.send(given.votes(poll, 3, node.id))
    assert node.hears(BatchApplied).rejected == ()
    assert failed
    assert given.stored(database, poll).votes == (3, 0, 0)
    assert amqp.is_empty(f"{queues['votes']}.dead")


def test_a_choice_that_does_not_count_is_forgotten_and_a_newer_one_is_not(start, amqp, cache, node, database):
    poll = given.open_poll(database)
    late, again = given.vote(poll, option=9), given.vote(poll, option=8)
    key = names.choices_key(poll.room_code)
    cache.hset(key, late.participant_id.hex, f"9:{late.seq}")
    cache.hset(key, again.participant_id.hex, f"1:{again.seq + 1}")
    start("votes")
    amqp.send(VoteBatch(given.uuid4(), node.id, (late, again)))
    # Then the node can tell the voters though it has forgotten the batch
    rejected = node.hears(BatchApplied).rejected
    assert [(one.participant_id, one.option_index, one.room_code, one.seq) for one in rejected] == [
        (late.participant_id, 9, poll.room_code, late.seq),
        (again.participant_id, 8, poll.room_code, again.seq),
    ]
    # And Redis knows only the choice that may still count, and believes nobody who writes the other one late
    only = {again.participant_id.hex: f"1:{again.seq + 1}", refused_field(late.participant_id.hex): str(late.seq)}
    eventually(lambda: cache.hgetall(key) == only)
    rooms = Rooms(cache, 60)
    rooms.store_choices({poll.room_code: [(late.participant_id.hex, 9, late.seq)]}, add=True)
    assert cache.hgetall(key) == only


def choices(cache, poll):
    return cache.hgetall(names.choices_key(poll.room_code))


def test_what_a_killed_node_did_not_write_stands_in_redis_after_the_commit(start, amqp, cache, database):
    # Given what its nodes wrote of three voters: nothing, that one has joined, an earlier choice
    poll = given.open_poll(database)
    votes = [given.vote(poll, option) for option in (0, 1, 2)]
    key = names.choices_key(poll.room_code)
    cache.hset(key, votes[1].participant_id.hex, "-1:0")
    cache.hset(key, votes[2].participant_id.hex, f"0:{votes[2].seq - 1}")
    # When their votes are committed, whose node is gone
    start("votes")
    amqp.send(VoteBatch(given.uuid4(), given.uuid4(), tuple(votes)))
    # Then Redis knows all three
    known = {vote.participant_id.hex: f"{option}:{vote.seq}" for option, vote in enumerate(votes)}
    eventually(lambda: choices(cache, poll) == known)


def test_an_older_vote_that_comes_late_is_not_taken_for_the_choice(start, amqp, cache, node, database):
    # Given a stored vote, of which an emptied Redis knows nothing
    poll = given.open_poll(database)
    older = given.vote(poll, option=0)
    newer = msgspec.structs.replace(older, option_index=1, seq=older.seq + 1)
    batch = VoteBatch(given.uuid4(), node.id, (older,))
    vote_store.store_batches(database, [VoteBatch(given.uuid4(), node.id, (newer,))], given.now_us())
    start("votes")
    # When an older vote of the same participant is stored, and when its batch is delivered again
    for _ in range(2):
        cache.delete(names.choices_key(poll.room_code))
        amqp.send(batch)
        node.hears(BatchApplied)
        # Then the newer one is the choice
        eventually(lambda: choices(cache, poll) == {newer.participant_id.hex: f"1:{newer.seq}"})


def test_choices_reach_a_redis_that_was_away_but_never_one_that_was_emptied(
    start, amqp, cache, node, database, monkeypatch
):
    store, failed = Rooms.store_choices, []

    def away(self, choices, *, add):
        if len(failed) < 3:
            failed.append(choices)
            raise redis.ConnectionError("away")
        store(self, choices, add=add)

    monkeypatch.setattr(Rooms, "store_choices", away)
    poll = given.open_poll(database)
    kept, emptied, refused = given.vote(poll), given.vote(poll), given.vote(poll, option=9)
    for vote in (kept, refused):
        cache.hset(names.choices_key(poll.room_code), vote.participant_id.hex, f"2:{vote.seq - 1}")
    process = start("votes")
    amqp.send(VoteBatch(given.uuid4(), node.id, (kept, emptied, refused)))
    # The batch does not wait for it
    assert node.hears(BatchApplied).rejected
    eventually(lambda: process.metrics._counts["messages.done"])
    # An older choice is replaced, one that is missing stays so: whoever resumes is told what the database knows
    known = {kept.participant_id.hex: f"0:{kept.seq}", refused_field(refused.participant_id.hex): str(refused.seq)}
    eventually(lambda: choices(cache, poll) == known)


def test_a_rejected_voter_is_told_through_redis_when_the_node_is_gone(start, amqp, cache, database):
    poll = given.open_poll(database)
    listener = cache.pubsub()
    listener.subscribe(names.FANOUT_CHANNEL)
    eventually(lambda: listener.get_message(timeout=0.1))
    start("votes")
    late = given.vote(poll, option=9)
    amqp.send(VoteBatch(given.uuid4(), given.uuid4(), (late,)))

    def rejected():
        message = json.loads((listener.get_message(timeout=0.1) or {"data": "{}"})["data"])
        return message if message.get("event") == names.VOTE_REJECTED else None

    message = eventually(rejected)
    assert message["room"] == names.participant_room(late.participant_id)
    said = {"error": "Invalid option index", "code": "invalid_option", names.REFUSED: [late.seq, -1]}
    assert message["data"] == [{"optionIndex": 9, "roomCode": poll.room_code} | said]
    listener.close()


@pytest.mark.proves("FR-035", "FR-036", "FR-041")
def test_votes_wait_out_a_database_that_is_away(start, amqp, queues, node, database, no_database):
    poll = given.open_poll(database)
    process = start("votes")
    no_database(True)
    for _ in range(30):
        amqp.send(given.votes(poll, 5, node.id))
    eventually(lambda: process.gate.breaker.state != "closed")
    no_database(False)
    for _ in range(30):
        assert node.hears(BatchApplied).rejected == ()
    assert given.stored(database, poll).votes == (150, 0, 0)
    assert amqp.is_empty(f"{queues['votes']}.dead")


def test_a_worker_that_stops_during_an_outage_gives_its_votes_back(start, amqp, queues, node, database, no_database):
    # Given a worker that holds votes while the database is away
    poll = given.open_poll(database)
    stopped = start("votes")
    no_database(True)
    amqp.send(given.votes(poll, 5, node.id))
    eventually(lambda: stopped.gate.breaker.state != "closed")
    # When it stops, and the database returns
    stopped.broker.stopping.set()
    eventually(lambda: stopped.metrics._counts["messages.given_back"])
    no_database(False)
    # Then the votes are counted by whoever takes them next
    assert node.hears(BatchApplied).rejected == ()
    assert given.stored(database, poll).votes == (5, 0, 0)


def test_the_outbox_reports_a_message_that_nobody_receives(start):
    process = start("votes")
    with pytest.raises(outbox.Unroutable):
        process.outbox.send_confirmed("", "node.that-is-gone", b"{}")
    # And the connection lives on
    process.outbox.send_confirmed(names.NODES_EXCHANGE, "", b'{"type":"Unknown"}')


def test_the_outbox_survives_an_error_that_nobody_expected(start, monkeypatch):
    process = start("votes")
    publish, tries = process.outbox._publish, []

    def broken(letter):
        if letter.routing_key == "broken":
            tries.append(letter)
            raise KeyError("a bug in a library")
        publish(letter)

    monkeypatch.setattr(process.outbox, "_publish", broken)
    with pytest.raises(outbox.Unconfirmed):
        process.outbox.send_confirmed("", "broken", b"{}")
    process.outbox.send("", "broken", b"{}")
    process.outbox.send_confirmed(names.NODES_EXCHANGE, "", b'{"type":"Unknown"}')
    assert len(tries) == 2
