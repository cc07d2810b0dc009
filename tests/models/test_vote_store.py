"""Votes: decided once, counted right, whatever order and however often they arrive."""

import threading

import msgspec
import peewee
import pytest

from models import vote_store
from models.recount import recount
from models.vote_store import poisonous_votes, store_batches
from tests.models.given import (
    NODE,
    OTHER_NODE,
    batch,
    change,
    codes,
    open_poll,
    person,
    poll,
    rows,
    snapshot,
    store,
    totals,
    vote,
)

HUGE = 2**63  # one more than a bigint can hold


@pytest.mark.proves("FR-002", "SC-002")
def test_votes_are_counted_per_option(database):
    here = open_poll(database).poll_id
    stored = store(database, vote(here, 1, 0), vote(here, 2, 2), vote(here, 3, 2))
    assert totals(database, here) == (1, 0, 2)
    assert stored.changed_polls == [here]
    assert codes(stored) == [[]]


def test_a_changed_vote_moves_from_one_option_to_the_other(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0, seq=2_000))
    store(database, vote(here, 1, 2, seq=2_001))
    assert totals(database, here) == (0, 0, 1)


@pytest.mark.proves("SC-002")
def test_an_older_vote_never_replaces_a_newer_one(database):
    # Given a participant who has already moved to option 2
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 2, seq=2_005))
    before = snapshot(database, here)
    # When an earlier choice arrives late
    stored = store(database, vote(here, 1, 0, seq=2_004))
    # Then the newer choice stands, and nothing has changed
    assert snapshot(database, here) == before
    assert stored.changed_polls == []


def test_the_highest_seq_of_several_merged_batches_wins(database):
    here = open_poll(database).poll_id
    merged = [batch(vote(here, 1, option, seq=seq)) for option, seq in ((0, 2_001), (2, 2_003), (1, 2_002))]
    store_batches(database, merged, 5_000)
    assert totals(database, here) == (0, 0, 1)
    times = "SELECT extract(epoch from first_voted_at)::float, extract(epoch from submitted_at)::float FROM votes"
    assert rows(database, times) == [(0.002001, 0.002003)]


@pytest.mark.proves("SC-002")
def test_a_redelivered_batch_counts_once(database):
    here = open_poll(database).poll_id
    same = batch(vote(here, 1, 0), vote(here, 2, 9), vote(here, 3, 1, received_us=1))
    first = store_batches(database, [same], 5_000)
    before = snapshot(database, here)
    again = store_batches(database, [same], 6_000)
    twice = store_batches(database, [same, same], 7_000)
    # Then it changed nothing, and the answer is the same as the first time
    assert snapshot(database, here) == before
    assert again.changed_polls == twice.changed_polls == []
    assert again.rejections == first.rejections
    assert twice.rejections == first.rejections * 2
    assert rows(database, "SELECT node_id, batches FROM poll_batches") == [(NODE, 1)]


def test_the_same_batch_twice_in_one_call_counts_once(database):
    here = open_poll(database).poll_id
    same = batch(vote(here, 1, 0), vote(here, 2, 9))
    stored = store_batches(database, [same, same], 5_000)
    assert totals(database, here) == (1, 0, 0)
    assert codes(stored) == [[(1, "invalid_option")]] * 2
    assert rows(database, "SELECT batches FROM poll_batches") == [(1,)]


def test_each_kind_of_refusal_is_told_by_place_and_stored(database):
    here = open_poll(database).poll_id
    closed = poll(database).poll_id
    stored = store(
        database,
        vote(here, 1, 0),
        vote(here, 2, 3),
        vote(999, 3, 0),
        vote(closed, 4, 0),
        vote(here, 5, 1, received_us=999),
    )
    assert codes(stored) == [
        [(1, "invalid_option"), (2, "poll_not_found"), (3, "voting_not_open"), (4, "voting_not_open")]
    ]
    assert [rejection.error for rejection in stored.rejections[0]] == [
        "Invalid option index",
        "Poll not found",
        "Voting is not open",
        "Voting is not open",
    ]
    assert rows(database, "SELECT count(*) FROM rejected_votes") == [(4,)]
    assert totals(database, here) == (1, 0, 0)


def test_a_refused_newer_vote_never_replaces_a_counted_older_one(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 1, seq=2_000), vote(here, 1, 7, seq=2_001))
    assert totals(database, here) == (0, 1, 0)


@pytest.mark.proves("US1.4")
def test_a_vote_received_before_the_close_counts_though_it_is_handled_after_it(database):
    here = open_poll(database).poll_id
    change(database, here, "closed", 3_000)
    stored = store(database, vote(here, 1, 0, received_us=2_999), vote(here, 2, 0, received_us=3_000))
    assert totals(database, here) == (1, 0, 0)
    assert codes(stored) == [[(1, "voting_not_open")]]


@pytest.mark.proves("US1.4")
def test_votes_received_between_two_voting_periods_never_count(database):
    # Given a poll that was closed at 3 000 and opened again at 4 000
    here = open_poll(database).poll_id
    change(database, here, "closed", 3_000)
    change(database, here, "open", 4_000)
    # When votes of all three stretches arrive only now
    stored = store(
        database,
        vote(here, 1, 0, received_us=2_500),
        vote(here, 2, 0, received_us=3_500),
        vote(here, 3, 0, received_us=4_000),
    )
    # Then the one received while voting was closed doesn't count
    assert codes(stored) == [[(1, "voting_not_open")]]
    assert totals(database, here) == (2, 0, 0)


@pytest.mark.proves("FR-002")
def test_a_vote_that_overtakes_its_registration_counts_and_leaves_a_stub(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0))
    assert totals(database, here) == (1, 0, 0)
    assert rows(database, "SELECT participant_id, poll_id, nickname FROM participants") == [(person(1), here, None)]


@pytest.mark.proves("FR-002", "SC-002")
def test_concurrent_first_votes_of_one_participant_count_once(database):
    # Given a transaction that has stored a participant's first vote and has not committed
    here = open_poll(database).poll_id
    other_done = threading.Event()

    def store_elsewhere() -> None:
        store(database, vote(here, 1, 2, seq=2_001))
        other_done.set()

    with database.transaction():
        store(database, vote(here, 1, 0, seq=2_000))
        # When another one stores a first vote of the same participant
        other = threading.Thread(target=store_elsewhere)
        other.start()
        wait_until_blocked(database)
    other.join(10)
    # Then it waited, and the tally counts one participant
    assert other_done.is_set()
    assert totals(database, here) == (0, 0, 1)
    assert recount(database) == []


@pytest.mark.proves("US1.4")
def test_a_batch_that_waits_for_a_close_is_decided_by_it(database):
    # Given a close that is not committed yet
    here = open_poll(database).poll_id
    answers = []
    with database.transaction():
        change(database, here, "closed", 3_000)
        # When a batch arrives meanwhile
        other = threading.Thread(target=lambda: answers.append(store(database, vote(here, 1, 0, received_us=3_500))))
        other.start()
        wait_until_blocked(database)
    other.join(10)
    # Then it is decided by the poll as the close left it
    assert codes(answers[0]) == [[(0, "voting_not_open")]]


def test_two_workers_with_the_same_batch_apply_it_once(database):
    here = open_poll(database).poll_id
    same = batch(vote(here, 1, 0), vote(here, 2, 9))
    answers = []
    with database.transaction():
        first = store_batches(database, [same], 5_000)
        other = threading.Thread(target=lambda: answers.append(store_batches(database, [same], 6_000)))
        other.start()
        wait_until_blocked(database)
    other.join(10)
    assert answers[0].changed_polls == []
    assert answers[0].rejections == first.rejections
    assert rows(database, "SELECT batches FROM poll_batches") == [(1,)]


def test_many_workers_never_deadlock_and_never_miscount(database):
    polls = [open_poll(database).poll_id for _ in range(4)]
    errors: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for turn in range(15):
                people = range(1, 60) if (worker + turn) % 2 else range(59, 0, -1)
                seq = 2_000 + turn * 10 + worker
                votes = [vote(polls[who % 4], who, (who + turn + worker) % 3, seq=seq) for who in people]
                store_batches(database, [batch(*votes[:30]), batch(*votes[30:])], seq)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert recount(database) == []
    assert sum(sum(totals(database, here)) for here in polls) == 59


def test_a_version_never_goes_back(database):
    here = open_poll(database).poll_id
    versions = [snapshot(database, here).version]
    for turn, now_us in enumerate((10_000, 9_000, 9_000, 20_000)):
        store(database, vote(here, 1, turn % 3, seq=2_000 + turn), now_us=now_us)
        versions.append(snapshot(database, here).version)
    assert versions[1:] == [10_000, 10_001, 10_002, 20_000]


def test_batches_are_counted_per_poll_and_node_rejected_ones_too(database):
    here, there = open_poll(database).poll_id, poll(database).poll_id
    store_batches(
        database,
        [
            batch(vote(here, 1, 0), vote(here, 2, 0)),
            batch(vote(here, 3, 0), vote(there, 3, 0)),
            batch(vote(here, 4, 0), node=OTHER_NODE),
            batch(),
        ],
        5_000,
    )
    assert set(rows(database, "SELECT poll_id, node_id, batches FROM poll_batches")) == {
        (here, NODE, 2),
        (here, OTHER_NODE, 1),
        (there, NODE, 1),
    }


def test_a_batch_counts_also_for_polls_whose_votes_were_taken_out_of_it(database):
    here, there = open_poll(database).poll_id, open_poll(database).poll_id
    empty = msgspec.structs.replace(batch(), also_counts=(here,))
    mixed = msgspec.structs.replace(batch(vote(there, 1, 0)), also_counts=(here, there, 999))
    store_batches(database, [empty, mixed], 5_000)
    store_batches(database, [empty], 5_000)
    counted = rows(database, "SELECT poll_id, batches FROM poll_batches")
    assert dict(counted) == {here: 2, there: 1}


def test_a_rejection_says_whose_vote_it_was_also_when_asked_again(database):
    here = open_poll(database)
    sick = batch(vote(here.poll_id, 1, 7), vote(999, 2, 0))
    for _ in range(2):
        ((first, gone),) = store_batches(database, [sick], 5_000).rejections
        assert (first.participant_id, first.option_index, first.room_code) == (person(1), 7, here.room_code)
        assert (gone.participant_id, gone.room_code) == (person(2), "")


def test_a_straggler_of_a_final_poll_counts_and_makes_a_corrected_version(database):
    here = open_poll(database).poll_id
    change(database, here, "closed", 3_000)
    with database.transaction():
        database.execute("UPDATE polls SET final = true")
    before = snapshot(database, here)
    store(database, vote(here, 1, 0), now_us=9_000)
    after = snapshot(database, here)
    assert (after.votes, after.final, after.version) == ((1, 0, 0), True, 9_000)
    assert before.version < after.version
    events = rows(database, "SELECT event, room_code, details FROM audit_log WHERE action = 'store_votes'")
    assert events == [("late_straggler_counted", before.room_code, {"version": "9000"})]


@pytest.mark.parametrize("poison", [vote(HUGE, 9, 0), vote(1, 9, 0, seq=HUGE, received_us=2_000)], ids=["poll", "seq"])
def test_a_poison_vote_is_an_error_of_its_own_and_can_be_found(database, poison):
    here = open_poll(database).poll_id
    sick = batch(vote(here, 1, 0), vote(here, 2, 0), poison, vote(here, 3, 1))
    with pytest.raises(peewee.PeeweeException):
        store_batches(database, [sick], 5_000)
    assert totals(database, here) == (0, 0, 0)
    assert poisonous_votes(database, sick, 5_000) == [2]
    assert totals(database, here) == (0, 0, 0)
    assert rows(database, "SELECT count(*) FROM applied_batches") == [(0,)]


def test_the_statement_never_reads_a_whole_table(database):
    # Given so many rows that the planner, free to choose, would read them all
    here = open_poll(database).poll_id
    store(database, *(vote(here, who, 0) for who in range(1, 3_001)))
    five_hundred = "{" + ",".join(["1"] * 500) + "}"
    with database.transaction():
        database.execute("ANALYZE votes, participants")
        people = [person(who) for who in range(1, 501)]
        values = (five_hundred, people, *[five_hundred] * 4)
        plan = "\n".join(line for (line,) in database.execute("EXPLAIN " + vote_store.UPSERT_VOTES, values))
    assert "Index Scan using votes_pkey" in plan
    assert "Seq Scan on" not in plan


def test_store_batches_of_nothing_changes_nothing(database):
    assert vote_store.store_batches(database, [], 1).changed_polls == []
    assert codes(store(database)) == [[]]


def wait_until_blocked(database) -> None:
    """Until some transaction waits for a lock. On the calling thread's own connection."""
    for _ in range(2_000):
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        if database.execute(waiting).fetchone()[0]:
            return
        database.execute("SELECT pg_sleep(0.002)")
    raise AssertionError("no transaction is waiting")


def test_choices_are_what_the_database_holds_after_the_commit(database):
    here = open_poll(database).poll_id

    def chosen(*batches):
        return {(one.participant_id, one.option_index, one.seq) for one in store_batches(database, batches, 1).choices}

    # Of one participant's votes the last that counts
    first = batch(vote(here, 1, 0, seq=2_000), vote(here, 1, 2, seq=2_002), vote(here, 1, 1, seq=2_001))
    late = vote(here, 2, 9, seq=2_005)
    assert chosen(first, batch(late)) == {(person(1), 2, 2_002)}
    # Also when an older one comes late, or a batch again
    older = batch(vote(here, 1, 1, seq=1_999), vote(here, 3, 0, seq=2_000))
    now = {(person(1), 2, 2_002), (person(3), 0, 2_000)}
    assert chosen(older) == now
    assert chosen(older) == now


def test_who_voted_again_where_votes_stand_is_told_which_one_does(database):
    here = open_poll(database).poll_id
    with database.transaction():
        database.execute("UPDATE polls SET vote_change = false WHERE id = %s", (here,))
    both = batch(vote(here, 1, 2, seq=2_000), vote(here, 1, 0, seq=2_001))
    ((refused,),) = store_batches(database, [both], 1).rejections
    assert (refused.code, refused.seq, refused.stands) == ("vote_stands", 2_001, 2)
    ((refused,),) = store_batches(database, [batch(vote(here, 1, 1, seq=2_002))], 1).rejections
    assert (refused.code, refused.stands) == ("vote_stands", 2)
