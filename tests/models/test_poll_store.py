"""Polls: created once, opened and closed by a log of changes, read as snapshots."""

from uuid import UUID, uuid4

import msgspec
import pytest

from models import poll_store
from models.participant_store import register
from models.poll_store import (
    CODE_ALPHABET,
    HostRevoked,
    PollMissing,
    change_state,
    claim_host,
    create_poll,
    demand_host,
    read_browser_roles,
    read_nicknames,
    read_snapshot_by_code,
    recent_versions,
    revoke_hosts,
)
from models.wire.commands import ChangeState, ClaimHost, RevokeHosts
from models.wire.polls import BrowserRole, PollState
from tests.models.given import (
    NODE,
    change,
    create_command,
    open_poll,
    person,
    poll,
    registration,
    rows,
    snapshot,
    store,
    vote,
)

BROWSER = UUID(int=0xB0)
HOUR_US = 3_600_000_000


@pytest.mark.proves("FR-001", "FR-003", "US1.1")
def test_a_poll_is_read_back_as_it_was_created(database):
    command = create_command(options=4, browser_id=BROWSER)
    made = create_poll(database, command, retention_days=365_000, now_us=7)
    assert made == read_snapshot_by_code(database, made.room_code)
    assert (made.question, made.options, made.votes) == (command.question, command.options, (0, 0, 0, 0))
    assert (made.state, made.final, made.version, made.created_at_us) == (PollState.WAITING, False, 7, 7)
    assert (made.creator_address, made.host_browsers) == ("192.0.2.7", (BROWSER,))
    assert len(made.room_code) == 6
    assert set(made.room_code) <= set(CODE_ALPHABET)


def test_a_repeated_create_makes_one_poll(database):
    command = create_command()
    first = create_poll(database, command, retention_days=30, now_us=1)
    assert create_poll(database, command, retention_days=30, now_us=2) == first
    assert rows(database, "SELECT count(*) FROM polls") == [(1,)]


def test_a_room_code_that_is_taken_is_drawn_again(database, monkeypatch):
    drawn = iter(["AAAAAA", "AAAAAA", "BBBBBB"])
    monkeypatch.setattr(poll_store, "new_room_code", lambda: next(drawn))
    assert [poll(database).room_code, poll(database).room_code] == ["AAAAAA", "BBBBBB"]


@pytest.mark.proves("FR-005")
def test_a_database_that_goes_back_gives_no_id_a_second_time(database):
    # Given polls that a restore loses, the column's own sequence with them
    lost = {poll(database).poll_id for _ in range(20)}
    with database.transaction():
        database.execute("TRUNCATE polls RESTART IDENTITY CASCADE")
    # When as many are made anew
    made = {poll(database).poll_id for _ in range(20)}
    # Then none has an id of before, and all stay exact where numbers are doubles
    assert len(made | lost) == 40
    assert all(0 < poll_id <= 2**53 for poll_id in made)


def test_an_id_that_is_taken_is_drawn_again(database, monkeypatch):
    ids = iter([7, 7, 8])
    monkeypatch.setattr(poll_store, "new_poll_id", lambda: next(ids))
    assert [poll(database).poll_id, poll(database).poll_id] == [7, 8]


def test_a_poll_that_has_expired_is_not_found_by_its_code(database):
    made = create_poll(database, create_command(), retention_days=1, now_us=HOUR_US)
    assert made.expires_at_us == 25 * HOUR_US
    assert read_snapshot_by_code(database, made.room_code) is None
    assert read_snapshot_by_code(database, "NOSUCH") is None


@pytest.mark.proves("FR-001")
def test_opening_and_closing_follows_the_commands(database):
    here = poll(database).poll_id
    opened = change(database, here, "open", 1_000)
    assert (opened.previous_state, opened.poll.state, opened.changed) == (PollState.WAITING, PollState.OPEN, True)
    assert (opened.poll.opened_at_us, opened.poll.state_changed_at_us, opened.poll.reopened_count) == (1_000, 1_000, 0)
    change(database, here, "closed", 2_000)
    again = change(database, here, "open", 3_000)
    assert (again.poll.opened_at_us, again.poll.reopened_count) == (3_000, 1)
    assert periods(database, here) == [(1_000, 2_000), (3_000, None)]


def test_a_repeated_command_makes_no_difference_and_answers_the_same(database):
    here = poll(database).poll_id
    command = ChangeState(uuid4(), NODE, here, PollState.OPEN, 1_000)
    first = change_state(database, command, 1_000)
    again = change_state(database, command, 2_000)
    assert (again.poll, again.previous_state, again.changed) == (first.poll, first.previous_state, False)
    assert rows(database, "SELECT count(*) FROM audit_log WHERE event = 'poll_state_changed'") == [(1,)]


def test_a_change_to_the_state_that_holds_already_makes_no_difference(database):
    here = open_poll(database).poll_id
    before = snapshot(database, here)
    change_again = change(database, here, "open", 9_000)
    assert change_again.poll == before
    assert not change_again.changed
    assert periods(database, here) == [(1_000, None)]


@pytest.mark.proves("US1.4")
def test_state_changes_that_arrive_out_of_order_land_in_their_places(database):
    # Given open at 1 000 and open again at 3 000, the close between them still on its way
    here = open_poll(database).poll_id
    change(database, here, "open", 3_000)
    # When the close of 2 000 arrives at last
    late = change(database, here, "closed", 2_000, now_us=9_000)
    # Then voting is open now, and was not between 2 000 and 3 000
    assert (late.poll.state, late.changed, late.poll.reopened_count) == (PollState.OPEN, True, 1)
    assert periods(database, here) == [(1_000, 2_000), (3_000, None)]
    # And nodes don't take this for something older than what they have
    assert late.poll.state_changed_at_us >= 3_000


def test_an_older_close_that_arrives_late_shortens_the_period_and_time_never_goes_back(database):
    here = open_poll(database).poll_id
    first = change(database, here, "closed", 3_000)
    late = change(database, here, "closed", 2_000, now_us=9_000)
    assert periods(database, here) == [(1_000, 2_000)]
    assert late.poll.state_changed_at_us > first.poll.state_changed_at_us
    assert late.poll.version > first.poll.version


def test_a_state_change_is_never_an_older_version(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0), now_us=90_000)
    assert change(database, here, "closed", 3_000).poll.version == 90_001


@pytest.mark.proves("US1.4")
def test_opening_again_takes_the_word_final_back(database):
    here = open_poll(database).poll_id
    change(database, here, "closed", 2_000)
    with database.transaction():
        database.execute("UPDATE polls SET final = true")
    assert change(database, here, "open", 3_000).poll.final is False


def test_a_change_of_a_poll_that_is_not_there_says_so(database):
    with pytest.raises(PollMissing):
        change(database, 999, "open", 1_000)


@pytest.mark.proves("FR-012")
def test_a_state_change_is_audited_with_who_made_it(database):
    made = open_poll(database)
    entries = rows(database, "SELECT event, outcome, room_code, actor, details FROM audit_log")
    details = {"asked": "open", "asked_at_us": "1000", "state": "open", "previous_state": "waiting"}
    assert entries == [("poll_state_changed", "ok", made.room_code, "host", details)]


def test_who_hosts_a_poll_leaves_the_version_of_its_final_totals(database):
    here = poll(database).poll_id
    with database.transaction():
        database.execute("UPDATE polls SET state = 'closed', final = true WHERE id = %s", (here,))
    final = snapshot(database, here)
    claim_host(database, ClaimHost(here, BROWSER, 50))
    assert snapshot(database, here) == msgspec.structs.replace(final, host_browsers=(BROWSER,))
    revoked = revoke_hosts(database, RevokeHosts(uuid4(), NODE, here, 2), 60)
    assert revoked == msgspec.structs.replace(final, token_generation=2)


def test_a_claim_makes_a_host_once(database):
    here = poll(database)
    claim_host(database, ClaimHost(here.poll_id, BROWSER, 50))
    claimed = snapshot(database, here.poll_id)
    claim_host(database, ClaimHost(here.poll_id, BROWSER, 60))
    claim_host(database, ClaimHost(999, BROWSER, 60))
    assert snapshot(database, here.poll_id) == claimed
    assert claimed.host_browsers == (BROWSER,)
    assert claimed.version > here.version


@pytest.mark.proves("FR-013")
def test_a_revocation_ends_every_host_of_a_lower_generation_once(database):
    # Given a poll with a host's browser
    here = poll(database)
    claim_host(database, ClaimHost(here.poll_id, BROWSER, 50, token_generation=1))
    # When its hosts are revoked
    revoke = RevokeHosts(uuid4(), NODE, here.poll_id, 2)
    revoked = revoke_hosts(database, revoke, 60)
    # Then it has another generation, a newer version, and no hosts; what was asked under the old one is refused
    assert (revoked.token_generation, revoked.host_browsers) == (2, ())
    assert revoked.version > here.version
    claim_host(database, ClaimHost(here.poll_id, BROWSER, 70, token_generation=1))
    assert snapshot(database, here.poll_id) == revoked
    with pytest.raises(HostRevoked):
        demand_host(database, here.poll_id, 1)
    # And whoever claims it under the new one keeps it, also when the command is delivered again
    claim_host(database, ClaimHost(here.poll_id, BROWSER, 80, token_generation=2))
    assert revoke_hosts(database, revoke, 90).host_browsers == (BROWSER,)
    demand_host(database, here.poll_id, 2)
    (role,) = [role for role in read_browser_roles(database, BROWSER) if role.poll_id == here.poll_id]
    assert role.token_generation == 2
    with pytest.raises(PollMissing):
        revoke_hosts(database, RevokeHosts(uuid4(), NODE, 999, 2), 60)
    with pytest.raises(PollMissing):
        demand_host(database, 999, 0)


@pytest.mark.proves("FR-013", "US2.3")
@pytest.mark.parametrize("state", ["closed", "waiting"])
def test_a_change_by_a_revoked_host_changes_nothing_and_takes_its_announcement_back(database, state):
    # Given an open poll whose hosts are revoked
    here = open_poll(database)
    revoke_hosts(database, RevokeHosts(uuid4(), NODE, here.poll_id, 2), 60)
    # When a node that has not heard of it sends a change, announced to all as of its time
    command = ChangeState(uuid4(), NODE, here.poll_id, PollState(state), 9_000, "thief", token_generation=1)
    refused = change_state(database, command, 9_500)
    # Then the poll is open as of later, so that no node takes it for closed, and that is on record
    assert (refused.revoked, refused.changed, refused.poll.state) == (True, False, PollState.OPEN)
    assert refused.poll.state_changed_at_us > command.at_us
    assert refused.poll.opened_at_us == here.opened_at_us
    entries = rows(database, "SELECT event, outcome, actor, details FROM audit_log WHERE actor = 'thief'")
    assert entries == [("state_change_refused", "refused", "thief", {"reason": "revoked"})]
    # And the new host may
    command = ChangeState(uuid4(), NODE, here.poll_id, PollState(state), 20_000, "host", token_generation=2)
    assert change_state(database, command, 20_000).poll.state is PollState(state)


def test_a_revoked_hosts_close_holds_up_no_opening_that_was_asked_for_before_it(database):
    # Given a poll that waits, and a close by a revoked host, announced to all nodes
    here = poll(database)
    revoke_hosts(database, RevokeHosts(uuid4(), NODE, here.poll_id, 2), 60)
    thief = ChangeState(uuid4(), NODE, here.poll_id, PollState.CLOSED, 9_000, "thief", token_generation=1)
    assert change_state(database, thief, 9_500).revoked
    # When an opening arrives that was asked for before, then nodes see that it is newer
    opened = change(database, here.poll_id, "open", 8_000).poll
    assert (opened.state, opened.state_changed_at_us > thief.at_us) == (PollState.OPEN, True)


def test_a_revoked_hosts_close_of_a_poll_that_is_final_makes_no_other_final_version(database):
    here = open_poll(database)
    change(database, here.poll_id, "closed", 2_000)
    revoke_hosts(database, RevokeHosts(uuid4(), NODE, here.poll_id, 2), 60)
    with database.transaction():
        database.execute("UPDATE polls SET final = true")
    before = snapshot(database, here.poll_id)
    thief = ChangeState(uuid4(), NODE, here.poll_id, PollState.CLOSED, 9_000, "thief", token_generation=1)
    after = change_state(database, thief, 9_500_000_000_000_000).poll
    assert (after.final, after.version, after.votes) == (True, before.version, before.votes)


@pytest.mark.proves("FR-003", "US1.5")
def test_the_sweep_sees_open_polls_and_those_that_changed_lately(database):
    quiet, lately, opened = poll(database), poll(database), open_poll(database)
    change(database, quiet.poll_id, "closed", 5_000)
    change(database, lately.poll_id, "closed", 5_000, now_us=8_000)
    seen = recent_versions(database, 8_000)
    assert set(seen) == {
        (lately.poll_id, lately.room_code, 8_000),
        (opened.poll_id, opened.room_code, opened.version),
    }


def test_a_straggler_brings_a_closed_poll_back_to_the_sweep(database):
    here = open_poll(database).poll_id
    change(database, here, "closed", 3_000)
    store(database, vote(here, 1, 0), now_us=70_000)
    assert [poll_id for poll_id, _, _ in recent_versions(database, 60_000)] == [here]


def test_raising_a_version_touches_no_index(database):
    here = open_poll(database).poll_id
    # Not yet flushed to the statistics, so counted since some earlier moment: compare the two counts.
    updates = (
        "SELECT sum(n_tup_upd - n_tup_hot_upd), sum(n_tup_upd) FROM pg_stat_xact_user_tables WHERE relname = ANY(%s)"
    )
    with database.transaction():
        cold_before, _ = database.execute(updates, (["polls", "tallies"],)).fetchone()
        for seq in range(2_000, 2_005):
            store(database, vote(here, 1, seq % 3, seq=seq), now_us=seq)
        cold_after, updated = database.execute(updates, (["polls", "tallies"],)).fetchone()
    assert updated >= 10
    assert cold_after == cold_before


@pytest.mark.proves("FR-004", "US1.2")
def test_a_cookie_stands_for_its_participants_and_hosted_polls(database):
    first, second, foreign = poll(database), poll(database), poll(database)
    register(
        database,
        [
            registration(first.poll_id, 1, "Ada", joined_us=10, browser=BROWSER),
            registration(first.poll_id, 2, "Bob", joined_us=20, browser=BROWSER),
            registration(foreign.poll_id, 3, "Cleo", browser=UUID(int=0xB1)),
        ],
    )
    claim_host(database, ClaimHost(second.poll_id, BROWSER, 1))
    roles = [msgspec.structs.replace(role, joined_at_us=0) for role in read_browser_roles(database, BROWSER)]
    assert sorted(roles, key=lambda role: role.nickname or "host") == [
        BrowserRole(first.poll_id, first.room_code, person(1), "Ada"),
        BrowserRole(first.poll_id, first.room_code, person(2), "Bob"),
        BrowserRole(second.poll_id, second.room_code, host=True),
    ]
    assert read_browser_roles(database, uuid4()) == []


def test_nicknames_come_in_chunks_without_stubs(database):
    here = open_poll(database).poll_id
    register(database, [registration(here, who, f"Name {who}") for who in range(1, 6)])
    store(database, vote(here, 9, 0))
    chunks = list(read_nicknames(database, here, chunk=2))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert [pair for chunk in chunks for pair in chunk] == [(f"name {who}", person(who)) for who in range(1, 6)]


def periods(database, poll_id: int) -> list[tuple]:
    return rows(
        database,
        "SELECT opened_at_us, closed_at_us FROM voting_periods WHERE poll_id = %s ORDER BY ordinal",
        (poll_id,),
    )
