"""Final: said when every node's account agrees, or when those that died were waited for long enough."""

from uuid import UUID, uuid4

import pytest

from models.final_store import LateBatches, note_flush, note_node, settle_finals
from models.vote_store import store_batches
from models.wire.commands import NodeHeartbeat, PollFlushed
from tests.models.given import NODE, OTHER_NODE, batch, change, open_poll, poll, rows, snapshot, vote

CLOSED_US = 3_000
NODE_TIMEOUT_US = 600
WAIT_US = 1_500


@pytest.fixture
def closed(database) -> int:
    """A poll that was open from 1 000 and closed at 3 000; both nodes were alive then."""
    here = open_poll(database).poll_id
    alive(database, NODE, CLOSED_US)
    alive(database, OTHER_NODE, CLOSED_US)
    change(database, here, "closed", CLOSED_US)
    return here


def alive(database, node: UUID, at_us: int, stopped: bool = False) -> None:
    note_node(database, NodeHeartbeat(node, "node", at_us, stopped))


def flushed(database, poll_id: int, node: UUID, batches: int, *unclear: UUID, closed_us: int = CLOSED_US) -> None:
    note_flush(database, PollFlushed(poll_id, closed_us, node, batches, unclear))


def settle(database, now_us: int) -> list[int]:
    return settle_finals(database, now_us, NODE_TIMEOUT_US, WAIT_US)


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
    # Given a node whose last heartbeat is older than the wait for the dead, and not yet too old to be alive
    flushed(database, closed, NODE, 0)
    alive(database, OTHER_NODE, 90_000)
    now_us, timeout_us = 90_000 + WAIT_US + 100, WAIT_US + 200
    assert settle_finals(database, now_us, timeout_us, WAIT_US) == []
    flushed(database, closed, OTHER_NODE, 0)
    assert settle_finals(database, now_us, timeout_us, WAIT_US) == [closed]


def test_a_batch_that_was_published_and_is_not_applied_is_waited_for(database, closed):
    flushed(database, closed, NODE, 2)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0))], 3_010)
    assert settle(database, 3_100) == []
    store_batches(database, [batch(vote(closed, 2, 0))], 3_020)
    assert settle(database, 3_100) == [closed]


def test_a_dead_node_is_waited_for_and_then_no_longer(database, closed):
    # Given a node whose last heartbeat was at the close and that never reported
    flushed(database, closed, NODE, 0)
    assert settle(database, CLOSED_US + NODE_TIMEOUT_US) == []
    assert settle(database, CLOSED_US + WAIT_US - 1) == []
    assert settle(database, CLOSED_US + WAIT_US) == [closed]


def test_a_dead_node_that_reported_and_agrees_is_not_waited_for(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    alive(database, OTHER_NODE, CLOSED_US + 1, stopped=True)
    assert settle(database, CLOSED_US + 2) == [closed]


def test_a_node_that_applied_votes_and_is_not_known_any_more_is_waited_for(database, closed):
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0), node=UUID(int=0xC))], 3_010)
    assert settle(database, 3_010 + WAIT_US - 1) == []
    assert settle(database, 3_010 + WAIT_US) == [closed]


def test_a_node_that_died_before_the_poll_was_opened_is_not_waited_for(database, closed):
    alive(database, UUID(int=0xC), 999)
    flushed(database, closed, NODE, 0)
    flushed(database, closed, OTHER_NODE, 0)
    assert settle(database, 3_001) == [closed]


def test_after_an_outage_a_dead_node_is_waited_for_from_when_the_close_was_applied(database):
    # Given a close that had to wait for the database as long as the votes had
    here = open_poll(database).poll_id
    alive(database, NODE, CLOSED_US)
    change(database, here, "closed", CLOSED_US, now_us=50_000)
    assert settle(database, 50_000 + WAIT_US - 1) == []
    assert settle(database, 50_000 + WAIT_US) == [here]


def test_an_unclear_batch_is_not_taken_for_a_confirmed_one(database, closed):
    # Given a node with one confirmed batch and one that may or may not have arrived
    flushed(database, closed, OTHER_NODE, 0)
    unclear, confirmed = batch(vote(closed, 1, 0)), batch(vote(closed, 2, 0))
    flushed(database, closed, NODE, 1, unclear.batch_id, uuid4())
    # When it was the unclear one that arrived first
    store_batches(database, [unclear], 3_010)
    # Then the confirmed one is still waited for
    assert settle(database, 3_100) == []
    store_batches(database, [confirmed], 3_020)
    assert settle(database, 3_100) == [closed]


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


LATE_US = 60_000_000
SECOND_US = 1_000_000


@pytest.fixture
def looks(database):
    """Looks once a second, from one second to another; both nodes live. Returns the polls that became final."""
    late = LateBatches(LATE_US)

    def looks(first: int, last: int) -> list[int]:
        found = []
        for second in range(first, last + 1):
            now_us = second * SECOND_US
            for node in (NODE, OTHER_NODE):
                alive(database, node, now_us)
            found += settle_finals(database, now_us, 6 * SECOND_US, 15 * SECOND_US, late)
        return found

    looks.late = late
    return looks


@pytest.fixture
def lacking(database, closed) -> int:
    """A poll of which a living node has published two batches; one of them was never applied."""
    flushed(database, closed, NODE, 2)
    flushed(database, closed, OTHER_NODE, 0)
    store_batches(database, [batch(vote(closed, 1, 0))], 3_010)
    return closed


def test_batches_that_never_come_are_waited_for_and_then_no_longer(database, lacking, looks):
    assert looks(1, 60) == []
    assert looks(61, 61) == [lacking]
    assert snapshot(database, lacking).final
    room_code = snapshot(database, lacking).room_code
    audited = rows(database, "SELECT room_code, details FROM audit_log WHERE event = 'final_without_all_batches'")
    assert audited == [(room_code, {f"batches missing of {NODE}": "1"})]


def test_the_wait_for_batches_begins_anew_when_one_of_them_came(database, lacking, looks):
    flushed(database, lacking, NODE, 3)
    assert looks(1, 50) == []
    store_batches(database, [batch(vote(lacking, 2, 0))], 50 * SECOND_US)
    assert looks(51, 110) == []
    assert looks(111, 111) == [lacking]


def test_the_time_without_a_database_does_not_count_as_waiting_for_batches(database, lacking, looks):
    # Given an outage that was noticed
    assert looks(1, 50) == []
    looks.late.forget()
    assert looks(52, 111) == []
    # And one during which this worker slept
    assert looks(200, 259) == []
    assert looks(260, 260) == [lacking]


def test_a_living_node_without_a_report_is_waited_for_without_end(database, closed, looks):
    flushed(database, closed, NODE, 2)
    assert looks(1, 200) == []


def test_a_node_is_not_taken_for_dead_before_it_could_be_heard_of_again(database, closed):
    # Given an outage in which no heartbeat was stored
    flushed(database, closed, NODE, 0)
    late = LateBatches(LATE_US)
    back_us = 900 * SECOND_US
    # Then the node is waited for as long as it takes to hear of a living one
    assert settle_finals(database, back_us, 6 * SECOND_US, 15 * SECOND_US, late) == []
    assert settle_finals(database, back_us + 5 * SECOND_US, 6 * SECOND_US, 15 * SECOND_US, late) == []
    assert settle_finals(database, back_us + 6 * SECOND_US, 6 * SECOND_US, 15 * SECOND_US, late) == [closed]


def test_open_and_waiting_polls_never_settle(database):
    open_poll(database)
    poll(database)
    assert settle(database, 900_000) == []


def test_a_poll_that_is_opened_while_it_is_being_settled_stays_open(database, closed, monkeypatch):
    from models import final_store

    def open_again(*_arguments: object) -> bool:
        change(database, closed, "open", 4_000)
        return True

    monkeypatch.setattr(final_store, "is_settled", open_again)
    assert settle(database, 5_000) == []
    assert snapshot(database, closed).final is False


def test_a_node_that_has_stopped_stays_so(database):
    alive(database, NODE, 10, stopped=True)
    alive(database, NODE, 20)
    alive(database, NODE, 15)
    assert rows(database, "SELECT last_seen_at_us, stopped FROM nodes") == [(20, True)]
