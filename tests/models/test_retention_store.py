"""Retention: what has expired goes as a whole, in small steps; everything else stays."""

import pytest

from models import poll_store
from models.audit_store import Filters, append, find
from models.final_store import note_flush, note_node
from models.participant_store import register
from models.poll_store import claim_host, create_poll
from models.retention_store import (
    LEFT_BEHIND,
    count_expired,
    delete_left_behind,
    forget,
    forget_nodes,
    forget_participants,
    forget_retired,
    next_retired,
    retire,
)
from models.tables import TABLES
from models.times import as_us
from models.wire.commands import AuditEntry, ClaimHost, NodeHeartbeat, PollFlushed
from tests.models.given import (
    NODE,
    OTHER_NODE,
    change,
    codes,
    create_command,
    open_poll,
    person,
    registration,
    rows,
    store,
    totals,
    vote,
)

DAY_US = 86_400_000_000
KEPT_FOREVER = {"audit_log", "applied_batches", "nodes", "queue_consumers", "queue_drains"}


@pytest.mark.proves("FR-005", "E2")
def test_an_expired_poll_goes_with_all_that_belongs_to_it(database):
    # Given a poll that expires after a day, with something in every table
    here = create_poll(database, create_command(), retention_days=1, now_us=1).poll_id
    change(database, here, "open", 1_000)
    register(database, [registration(here, 1, "Ada")])
    claim_host(database, ClaimHost(here, person(9), 1))
    store(database, vote(here, 1, 0), vote(here, 2, 9))
    note_flush(database, PollFlushed(here, 1, NODE, 1))
    stays = open_poll(database).poll_id
    store(database, vote(stays, 5, 1))
    # When its time is over, and nobody has used it for long
    assert retire(database, DAY_US, 5, 1) == []
    assert retire(database, DAY_US + 1, 5, 1) == [here]
    assert retire(database, DAY_US + 1, 5, 1) == []
    # Then votes for it don't count any more, and what it was is remembered
    assert codes(store(database, vote(here, 1, 1, seq=9_000))) == [[(0, "poll_not_found")]]
    poll = next_retired(database, 0)
    assert (poll.poll_id, poll.votes, poll.archived) == (here, 1, False)
    assert poll.document["voting_periods"] == [[1_000, None]]
    assert poll.document["state_changes"] == [[1_000, "open"]]
    # And it is not forgotten while votes of it are left
    assert not forget_retired(database, poll, DAY_US)
    for table in LEFT_BEHIND:
        while delete_left_behind(database, here, table, 1):
            pass
    assert forget_retired(database, poll, DAY_US)
    assert next_retired(database, 0) is None
    # Then nothing of it is left, and the other poll is whole
    for name in {table._meta.table_name for table in TABLES} - KEPT_FOREVER - {"polls"}:
        assert rows(database, f"SELECT count(*) FROM {name} WHERE poll_id = %s", (here,)) == [(0,)], name
    assert rows(database, "SELECT id FROM polls") == [(stays,)]
    assert totals(database, stays) == (0, 1, 0)
    assert [(entry.event, entry.details["votes"]) for entry in find(database, Filters(event="poll_deleted"), 9)] == [
        ("poll_deleted", "1")
    ]


@pytest.mark.proves("FR-005")
def test_a_poll_in_use_is_given_another_day_and_not_without_end(database):
    # Given polls that expire after ten days, one of which is voted in then
    used, quiet = (create_poll(database, create_command(), retention_days=10, now_us=1).poll_id for _ in range(2))
    change(database, used, "open", 1_000)
    at_end = 10 * DAY_US + 1
    store(database, vote(used, 1, 0), now_us=at_end - DAY_US // 2)
    assert count_expired(database, at_end, 12) == (1, 0)
    assert retire(database, at_end, 5, 12) == [quiet]
    # Then it lives on for as long as somebody votes
    assert expires(database, used) == at_end + DAY_US
    assert codes(store(database, vote(used, 2, 0), now_us=at_end)) == [[]]
    assert retire(database, at_end + DAY_US + 1, 5, 12) == [used]
    # And at most until it is as old as that
    used = create_poll(database, create_command(), retention_days=10, now_us=1).poll_id
    change(database, used, "open", 1_000)
    for day in (10, 11, 12):
        store(database, vote(used, 1, 0, seq=2_000 + day), now_us=day * DAY_US)
        # Before its time is over, so that no node takes it for gone
        assert retire(database, day * DAY_US - 1, 5, 12) == []
        assert expires(database, used) == min(day * DAY_US - 1 + DAY_US, 12 * DAY_US + 1)
    assert retire(database, 12 * DAY_US + 1, 5, 12) == [used]


def expires(database, poll_id):
    ((moment,),) = rows(database, "SELECT expires_at FROM polls WHERE id = %s", (poll_id,))
    return as_us(moment)


@pytest.mark.proves("FR-005")
def test_a_retired_polls_room_code_is_free_at_once(database, monkeypatch):
    monkeypatch.setattr(poll_store, "new_room_code", lambda: "AGAIN2")
    old = create_poll(database, create_command(), retention_days=1, now_us=1)
    with pytest.raises(RuntimeError):
        create_poll(database, create_command(), retention_days=1, now_us=DAY_US + 1)
    retire(database, DAY_US + 1, 5, 1)
    new = create_poll(database, create_command(), retention_days=1, now_us=DAY_US + 1)
    assert (new.room_code, new.poll_id != old.poll_id) == ("AGAIN2", True)


@pytest.mark.proves("FR-005")
def test_participants_not_seen_for_long_go_and_their_votes_stay(database):
    here = open_poll(database).poll_id
    register(database, [registration(here, who, f"No. {who}", joined_us=who) for who in (1, 2, 3, 4)])
    store(database, vote(here, 1, 0))
    with database.transaction():
        database.execute("UPDATE participants SET last_seen_at = now() WHERE participant_id = %s", (person(2),))
    # When those seen before 4 µs after the epoch are forgotten, two at a time
    steps, after = [], None
    while True:
        deleted, after = forget_participants(database, 2_000, after, 2)
        steps.append(deleted)
        if after is None:
            break
    # Then who joined long ago but was seen since is still there
    assert steps == [1, 2, 0]
    assert rows(database, "SELECT nickname FROM participants") == [("No. 2",)]
    assert totals(database, here) == (1, 0, 0)


def test_old_batches_and_nodes_are_forgotten(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0))
    store(database, vote(here, 2, 0), vote(here, 3, 9), vote(999, 4, 0))
    with database.transaction():
        first = "(SELECT min(ctid) FROM applied_batches)"
        database.execute(f"UPDATE applied_batches SET applied_at = 'epoch' WHERE ctid = {first}")
        database.execute("UPDATE rejected_votes SET rejected_at = 'epoch'")
    note_node(database, NodeHeartbeat(NODE, "old", 5), 5)
    note_node(database, NodeHeartbeat(OTHER_NODE, "new", 15), 15)
    assert [forget(database, table, 10, 5) for table in ("applied_batches", "rejected_votes")] == [1, 1]
    forget_nodes(database, 10)
    assert rows(database, "SELECT count(*) FROM applied_batches") == [(1,)]
    assert rows(database, "SELECT name FROM nodes") == [("new",)]
    assert rows(database, "SELECT poll_id FROM rejected_votes") == [(here,)]


@pytest.mark.proves("FR-005", "FR-012")
def test_old_audit_entries_go_in_small_steps(database):
    append(database, [AuditEntry(at_us, "event", "", "ok") for at_us in range(1, 6)])
    assert [forget(database, "audit_log", 4, 2) for _ in range(3)] == [2, 1, 0]
    assert len(find(database, Filters(), 9)) == 2
