"""Retention: what has expired goes as a whole, everything else stays."""

import pytest

from models.audit_store import Filters, append, find
from models.final_store import note_flush, note_node
from models.participant_store import register
from models.poll_store import claim_host, create_poll
from models.retention_store import delete_expired, forget_audit, forget_batches
from models.tables import TABLES
from models.wire.commands import AuditEntry, ClaimHost, NodeHeartbeat, PollFlushed
from tests.models.given import (
    NODE,
    OTHER_NODE,
    change,
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
KEPT_FOREVER = {"audit_log", "applied_batches", "nodes"}


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
    # When its time is over
    assert delete_expired(database, DAY_US) == 0
    assert delete_expired(database, DAY_US + 1) == 1
    assert delete_expired(database, DAY_US + 1) == 0
    # Then nothing of it is left, and the other poll is whole
    for name in {table._meta.table_name for table in TABLES} - KEPT_FOREVER - {"polls"}:
        assert rows(database, f"SELECT count(*) FROM {name} WHERE poll_id = %s", (here,)) == [(0,)], name
    assert rows(database, "SELECT id FROM polls") == [(stays,)]
    assert totals(database, stays) == (0, 1, 0)


def test_old_batches_and_nodes_are_forgotten(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0))
    store(database, vote(here, 2, 0), vote(here, 3, 9), vote(999, 4, 0))
    with database.transaction():
        first = "(SELECT min(ctid) FROM applied_batches)"
        database.execute(f"UPDATE applied_batches SET applied_at = 'epoch' WHERE ctid = {first}")
        database.execute("UPDATE rejected_votes SET rejected_at = 'epoch'")
    note_node(database, NodeHeartbeat(NODE, "old", 5))
    note_node(database, NodeHeartbeat(OTHER_NODE, "new", 15))
    forget_batches(database, 10)
    assert rows(database, "SELECT count(*) FROM applied_batches") == [(1,)]
    assert rows(database, "SELECT name FROM nodes") == [("new",)]
    assert rows(database, "SELECT poll_id FROM rejected_votes") == [(here,)]


@pytest.mark.proves("FR-005", "FR-012")
def test_old_audit_entries_go_in_small_steps(database):
    append(database, [AuditEntry(at_us, "event", "", "ok") for at_us in range(1, 6)])
    assert forget_audit(database, before_us=4, limit=2) == 2
    assert forget_audit(database, before_us=4, limit=2) == 1
    assert forget_audit(database, before_us=4, limit=2) == 0
    assert len(find(database, Filters(), 9)) == 2
