"""Final: said when every node's account agrees, or when the queue has been worked off since the last can have come."""

from uuid import UUID, uuid4

import pytest

from models.final_store import (
    Evidence,
    Outlook,
    database_time_us,
    longest_wait_s,
    note_flush,
    note_node,
    settle_finals,
    waiting_for,
)
from models.vote_store import store_batches
from models.wire.commands import NodeHeartbeat, PollFlushed
from tests.models.given import NODE, OTHER_NODE, batch, change, open_poll, poll, rows, snapshot, vote

CLOSED_US = 3_000
NODE_TIMEOUT_US = 600
WAIT_US = 1_500
LATE_US = 90_000


@pytest.fixture
def closed(database) -> int:
    """A poll that was open from 1 000 and closed at 3 000; both nodes were alive then."""
    here = open_poll(database).poll_id
    alive(database, NODE, CLOSED_US)
    alive(database, OTHER_NODE, CLOSED_US)
    change(database, here, "closed", CLOSED_US)
    return here


def alive(database, node: UUID, at_us: int, stopped: bool = False) -> None:
    # What the node takes for the time is far off.
    note_node(database, NodeHeartbeat(node, "node", at_us + 10**12, stopped), at_us)


def flushed(
    database, poll_id: int, node: UUID, batches: int, *unclear: UUID, closed_us: int = CLOSED_US, at_us: int = 3_001
) -> None:
    note_flush(database, PollFlushed(poll_id, closed_us, node, batches, unclear), at_us)


def outlook(database, now_us: int, drained_us: int = 0, steady_us: int = 0, known: bool = True) -> Outlook:
    return settle_finals(database, Evidence(NODE_TIMEOUT_US, WAIT_US, drained_us, steady_us, known), now_us)


def settle(database, now_us: int, drained_us: int = 0) -> list[int]:
    return list(outlook(database, now_us, drained_us).final)


@pytest.mark.proves("US1.4")
def test_a_poll_is_final_when_all_nodes_reported_and_all_they_published_is_applied(database, closed):
    store_batches(database, [batch(vote(closed, 1, 0)), batch(vote(closed, 2, 0), node=OTHER_NODE)], 3_010)
    flushed(database, closed, NODE, 1)
    flushed(database, closed, OTHER_NODE, 1)
    before = snapshot(database, closed).version
    assert settle(database, 3_100) == [closed]
    after = snapshot(database, closed)
    assert (after.final, after.votes) == (True, (2, 0, 0))
    assert after.version > before
    assert settle(database, 3_200) == []
    audited = rows(database, "SELECT room_code FROM audit_log WHERE event = 'poll_final'")
    assert audited == [(after.room_code,)]


def test_a_live_node_without_a_report_is_waited_for_without_end(database, closed):
    # Given a node whose last heartbeat is a moment old, and a queue in which nothing is left
    flushed(database, closed, NODE, 0)
    alive(database, OTHER_NODE, LATE_US)
    now_us = LATE_US + NODE_TIMEOUT_US - 1
    assert outlook(database, now_us, drained_us=now_us) == Outlook()
    flushed(database, closed, OTHER_NODE, 0)
    assert settle(database, now_us) == [closed]


def test_a_batch_that_was_published_and_is_not_applied_is_waited_for(database, closed):
    flushed(database, closed, NODE, 2)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0))], 3_010)
    assert settle(database, 3_100) == []
    store_batches(database, [batch(vote(closed, 2, 0))], 3_020)
    assert settle(database, 3_100) == [closed]


def test_a_dead_node_is_waited_for_until_the_queue_was_worked_off(database, closed):
    # Given a node whose last heartbeat was at the close and that never reported
    flushed(database, closed, NODE, 0)
    may_publish_until_us = CLOSED_US + WAIT_US
    # Then no time is long enough
    assert outlook(database, may_publish_until_us) == Outlook()
    assert outlook(database, 10**9) == Outlook(waits_for_votes=True)
    # Nor does it help that the queue was worked off while something could still have come
    assert outlook(database, 10**9, drained_us=may_publish_until_us) == Outlook(waits_for_votes=True)
    assert settle(database, 10**9, drained_us=may_publish_until_us + 1) == [closed]


def test_a_dead_node_that_reported_and_agrees_is_not_waited_for(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    alive(database, OTHER_NODE, CLOSED_US + 1, stopped=True)
    assert settle(database, CLOSED_US + 2) == [closed]


def test_a_node_that_applied_votes_and_is_not_known_any_more_is_waited_for(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0), node=UUID(int=0xC))], 3_010)
    assert settle(database, LATE_US, drained_us=3_010 + WAIT_US) == []
    assert settle(database, LATE_US, drained_us=3_010 + WAIT_US + 1) == [closed]


def test_a_node_that_died_long_before_the_poll_was_opened_is_not_waited_for(database, closed):
    dead = UUID(int=0xC)
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    # Given one whose last heartbeat was so short before the opening that it may have taken votes since
    alive(database, dead, 999)
    assert settle(database, 9_000) == []
    with database.transaction():
        database.execute("UPDATE nodes SET last_seen_at_us = %s WHERE node_id = %s", (999 - WAIT_US, dead))
    assert settle(database, 9_000) == [closed]


def test_after_an_outage_a_dead_node_is_waited_for_from_when_the_close_was_applied(database):
    # Given a close that had to wait for the database as long as the votes had
    here = open_poll(database).poll_id
    alive(database, NODE, CLOSED_US)
    change(database, here, "closed", CLOSED_US, now_us=50_000)
    assert settle(database, LATE_US, drained_us=50_000 + WAIT_US) == []
    assert settle(database, LATE_US, drained_us=50_000 + WAIT_US + 1) == [here]


def test_an_unclear_batch_is_not_taken_for_a_confirmed_one(database, closed):
    # Given a node with one confirmed batch and one that may or may not have arrived
    flushed(database, closed, OTHER_NODE, 0)
    unclear, confirmed = batch(vote(closed, 1, 0)), batch(vote(closed, 2, 0))
    flushed(database, closed, NODE, 1, unclear.batch_id)
    # When it was the unclear one that arrived first
    store_batches(database, [unclear], 3_010)
    # Then the confirmed one is still waited for
    assert settle(database, 3_100) == []
    store_batches(database, [confirmed], 3_020)
    assert settle(database, 3_100) == [closed]


def test_an_unclear_batch_that_may_lie_in_the_queue_is_waited_for(database, closed):
    flushed(database, closed, OTHER_NODE, 0)
    flushed(database, closed, NODE, 0, uuid4(), at_us=3_050)
    assert outlook(database, 3_100, drained_us=3_050) == Outlook(waits_for_votes=True)
    # Nothing is left in which it could be
    assert settle(database, 3_100, drained_us=3_051) == [closed]
    assert rows(database, "SELECT event FROM audit_log WHERE event = 'final_without_all_batches'") == []


def test_a_report_for_an_earlier_close_says_nothing_about_a_later_one(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    change(database, closed, "open", 4_000)
    change(database, closed, "closed", 5_000)
    for node in (NODE, OTHER_NODE):
        alive(database, node, 5_000)
    assert settle(database, 5_100) == []
    flushed(database, closed, NODE, 0, closed_us=5_000)
    flushed(database, closed, OTHER_NODE, 0, closed_us=5_000)
    # A report that arrives late and is older changes nothing.
    flushed(database, closed, NODE, 7)
    assert settle(database, 5_100) == [closed]


def test_batches_that_were_reported_and_are_in_the_queue_no_more_are_dead_letters(database, closed):
    # Given a living node that has published two batches; one of them was never applied
    flushed(database, closed, NODE, 2, at_us=3_050)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0))], 3_010)
    # Then no time is long enough, and nothing that was in the queue before the report tells of it
    assert outlook(database, 10**12) == Outlook(waits_for_votes=True)
    assert outlook(database, 10**12, drained_us=3_050) == Outlook(waits_for_votes=True)
    # But when the queue was worked off afterwards
    assert settle(database, 10**12, drained_us=3_051) == [closed]
    after = snapshot(database, closed)
    assert (after.final, after.votes) == (True, (1, 0, 0))
    audited = rows(database, "SELECT room_code, details FROM audit_log WHERE event = 'final_without_all_batches'")
    assert audited == [(after.room_code, {f"batches missing of {NODE}": "1"})]


def test_a_report_that_is_made_again_keeps_its_time(database, closed):
    # Given a node that reports the same again and again, as it is reminded to, while the queue is being worked off
    flushed(database, closed, OTHER_NODE, 0)
    unclear = uuid4()
    flushed(database, closed, NODE, 0, unclear, at_us=3_050)
    flushed(database, closed, NODE, 0, unclear, at_us=3_090)
    # Then what proves the first report proves the second
    assert settle(database, 3_100, drained_us=3_051) == [closed]


def test_a_report_that_says_more_counts_from_when_it_was_made(database, closed):
    flushed(database, closed, OTHER_NODE, 0)
    flushed(database, closed, NODE, 1, at_us=3_050)
    flushed(database, closed, NODE, 2, at_us=3_090)
    assert outlook(database, 3_100, drained_us=3_051) == Outlook(waits_for_votes=True)


def test_a_report_of_unknown_age_proves_nothing(database, closed):
    """A worker of an earlier version has stored it."""
    flushed(database, closed, NODE, 2)
    flushed(database, closed, OTHER_NODE, 0)
    with database.transaction():
        database.execute("UPDATE poll_flushes SET reported_at_us = NULL")
    alive(database, NODE, LATE_US)
    assert outlook(database, LATE_US + 1, drained_us=LATE_US) == Outlook()


def test_a_node_is_not_taken_for_dead_before_it_could_be_heard_of_again(database, closed):
    # Given an outage in which no heartbeat was stored
    flushed(database, closed, NODE, 0)
    back_us = LATE_US
    # Then the node is waited for as long as it takes to hear of a living one
    assert outlook(database, back_us + NODE_TIMEOUT_US - 1, 10**9, back_us) == Outlook()
    assert outlook(database, back_us + NODE_TIMEOUT_US, 10**9, back_us).final == (closed,)


def test_nothing_is_final_while_a_node_may_be_unknown(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    assert outlook(database, 3_100, known=False) == Outlook(waits_for_hosts=True)
    # When the heartbeat of one comes, which took votes and was killed
    alive(database, UUID(int=0xC), 3_200)
    assert outlook(database, 3_300) == Outlook()
    assert settle(database, LATE_US, drained_us=3_200 + WAIT_US + 1) == [closed]


def test_the_poll_that_waits_longest_is_told(database, closed):
    assert longest_wait_s(database) == pytest.approx(database_time_us(database) / 1e6 - 0.003, abs=60)
    assert waiting_for(database, 1_000_000) == [closed]
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    assert settle(database, 3_100) == [closed]
    assert longest_wait_s(database) == 0


def test_open_and_waiting_polls_never_settle(database):
    open_poll(database)
    poll(database)
    assert settle(database, 900_000) == []


def test_a_poll_that_is_opened_while_it_is_being_settled_stays_open(database, closed, monkeypatch):
    from models import final_store

    def open_again(*_arguments: object) -> int:
        change(database, closed, "open", 4_000)
        return -1

    monkeypatch.setattr(final_store, "last_published_us", open_again)
    assert settle(database, 5_000) == []
    assert snapshot(database, closed).final is False


def test_a_node_that_has_stopped_stays_so(database):
    alive(database, NODE, 10, stopped=True)
    alive(database, NODE, 20)
    alive(database, NODE, 15)
    assert rows(database, "SELECT last_seen_at_us, stopped FROM nodes") == [(20, True)]
