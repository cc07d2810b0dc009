"""What is read out of the stored votes: the export, the recount, the audit log."""

from datetime import UTC, datetime

import msgspec
import pytest

from models.audit_store import Filters, append, find
from models.export_store import read_page
from models.participant_store import register
from models.recount import Mismatch, recount, repair
from models.wire.commands import AuditEntry
from tests.models.given import open_poll, registration, rows, snapshot, store, vote


def at(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def test_the_export_has_one_row_per_voter_with_first_and_last_vote(database):
    here, there = open_poll(database).poll_id, open_poll(database).poll_id
    register(database, [registration(here, 1, "Ada"), registration(here, 3, "Never voted")])
    store(database, vote(here, 1, 0, seq=2_000), vote(here, 2, 1, seq=2_100), vote(there, 7, 1))
    store(database, vote(here, 1, 2, seq=2_200))
    first = read_page(database, here, None, 1)
    rest = read_page(database, here, first[-1].participant_id, 10)
    assert [tuple(msgspec.structs.astuple(row)[1:]) for row in (*first, *rest)] == [
        ("Ada", 2, 2_000, 2_200),
        (None, 1, 2_100, 2_100),
    ]
    assert read_page(database, here, rest[-1].participant_id, 10) == ()


@pytest.mark.proves("SC-002")
def test_the_recount_finds_a_wrong_tally_and_repair_mends_it(database):
    here, right = open_poll(database), open_poll(database)
    store(database, vote(here.poll_id, 1, 0), vote(here.poll_id, 2, 2), vote(right.poll_id, 3, 1))
    assert recount(database) == []
    with database.transaction():
        database.execute("UPDATE tallies SET votes = '{5,0,1}' WHERE poll_id = %s", (here.poll_id,))
    wrong = Mismatch(here.poll_id, here.room_code, (5, 0, 1), (1, 0, 1))
    assert recount(database) == [wrong]
    before = snapshot(database, here.poll_id).version
    assert repair(database, here.poll_id, 1) == wrong
    assert repair(database, here.poll_id, 1) is None
    assert recount(database) == []
    assert snapshot(database, here.poll_id).version > before
    assert rows(database, "SELECT room_code FROM audit_log WHERE event = 'tally_repaired'") == [(here.room_code,)]


@pytest.mark.proves("FR-012")
def test_audit_entries_are_kept_whole(database):
    details = {"why": 'bad "token" 🗳'}
    entry = AuditEntry(5_000, "auth_failed", "join-room", "refused", "ABCDEF", "p", "192.0.2.1", "c", details)
    append(database, [entry])
    append(database, [])
    kept = "SELECT at, event, action, outcome, room_code, actor, address, correlation_id, details FROM audit_log"
    assert rows(database, kept) == [
        (at(5_000), "auth_failed", "join-room", "refused", "ABCDEF", "p", "192.0.2.1", "c", details)
    ]


@pytest.mark.proves("FR-012")
def test_the_newest_audit_entries_that_fit_are_found_oldest_first(database):
    def entry(at_us: int, **fields: str) -> AuditEntry:
        told = {"event": "rate_limited", "action": "join", "outcome": "refused", "address": "hash", **fields}
        return AuditEntry(at_us, **told)

    append(database, [entry(1), entry(2, address="other"), entry(3, room_code="ABCDEF"), entry(4, event="else")])
    assert [kept.at for kept in find(database, Filters(), 3)] == [at(2), at(3), at(4)]
    assert [kept.at for kept in find(database, Filters(address="hash", event="rate_limited"), 9)] == [at(1), at(3)]
    assert [kept.at for kept in find(database, Filters(room_code="ABCDEF"), 9)] == [at(3)]
    assert [kept.at for kept in find(database, Filters(since_us=4), 9)] == [at(4)]
    assert find(database, Filters(outcome="ok"), 9) == find(database, Filters(correlation_id="x"), 9) == []
