"""What a host chose for a poll, as the database keeps it and as it decides about votes."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import peewee
import pytest

from models import poll_store
from models.migrations.runner import migrate_down, migrate_up
from models.poll_store import change_state
from models.runtime.clock import now_us
from models.state_log import TIMER
from models.vote_store import store_batches
from models.wire.commands import ChangeState
from models.wire.polls import PollRules, PollState, Results
from scripts.stack.supervision import wait_until
from tests.models.given import (
    NODE,
    batch,
    change,
    codes,
    open_poll,
    poll,
    rows,
    snapshot,
    store,
    totals,
    vote,
)

FIXED = PollRules(vote_change=False)
_S = 1_000_000
_LATER_US = (
    4_102_444_800_000_000  # in the year 2100: a period that was asked for then does not begin when it is recorded
)


def open_for_a_minute(database):
    """A poll that opens at ``_LATER_US`` and has an end."""
    made = poll(database, rules=PollRules(close_after_s=60))
    return change(database, made.poll_id, "open", _LATER_US).poll


def test_rules_are_kept(database):
    rules = PollRules(Results.AFTER_VOTE, False, 60, 12)
    made = poll(database, rules=rules)
    assert made.rules == rules
    assert snapshot(database, made.poll_id).rules == rules
    assert poll(database).rules == PollRules(Results.ALWAYS, True, None, None)


def test_where_votes_stand_the_first_one_counts_and_another_is_refused(database):
    here = open_poll(database, rules=FIXED).poll_id
    store(database, vote(here, 1, 0, seq=2_000))
    stored = store(database, vote(here, 1, 2, seq=2_001), vote(here, 2, 2, seq=2_002))
    assert codes(stored) == [[(0, "vote_stands")]]
    assert totals(database, here) == (1, 0, 1)
    assert rows(database, "SELECT code FROM rejected_votes WHERE poll_id = %s", (here,)) == [("vote_stands",)]


def test_where_votes_stand_the_first_of_one_transaction_counts(database):
    here = open_poll(database, rules=FIXED).poll_id
    batches = [
        batch(vote(here, 1, 1, seq=2_000), vote(here, 1, 0, seq=2_001)),
        batch(vote(here, 1, 2, seq=2_002)),
    ]
    assert codes(store_batches(database, batches, 5_000)) == [[(1, "vote_stands")], [(0, "vote_stands")]]
    assert totals(database, here) == (0, 1, 0)


def test_the_same_choice_again_is_no_change(database):
    here = open_poll(database, rules=FIXED).poll_id
    first = batch(vote(here, 1, 1, seq=2_000))
    store_batches(database, [first], 5_000)
    again = store_batches(database, [batch(vote(here, 1, 1, seq=2_001)), first], 5_001)
    assert codes(again) == [[], []]
    assert again.changed_polls == []
    assert totals(database, here) == (0, 1, 0)


def test_votes_stand_in_their_own_poll_alone(database):
    fixed, free = open_poll(database, rules=FIXED).poll_id, open_poll(database).poll_id
    for option in (0, 1):
        store(database, vote(fixed, 1, option, seq=2_000 + option), vote(free, 2, option, seq=2_000 + option))
    assert (totals(database, fixed), totals(database, free)) == ((1, 0, 0), (0, 1, 0))


def test_a_poll_is_due_from_the_moment_on_at_which_its_time_is_over(database):
    timed = open_for_a_minute(database)
    open_poll(database)
    poll(database, rules=PollRules(close_after_s=1))  # waits to be opened
    end_us = _LATER_US + 60 * _S
    assert timed.closes_at_us == end_us
    assert poll_store.due_closes(database, end_us - 1) == []
    assert poll_store.due_closes(database, end_us) == [(timed.poll_id, _LATER_US, end_us)]
    closed = change(database, timed.poll_id, "closed", end_us - 5).poll
    assert (closed.state, closed.closes_at_us) == (PollState.CLOSED, 0)
    assert poll_store.due_closes(database, end_us) == []
    # Opened again it is open for as long again
    again = change(database, timed.poll_id, "open", end_us).poll
    assert again.closes_at_us == end_us + 60 * _S


def test_a_vote_received_after_the_end_is_refused_before_anybody_has_committed_the_close(database):
    timed = open_for_a_minute(database).poll_id
    end_us = _LATER_US + 60 * _S
    stored = store(database, vote(timed, 1, 0, received_us=end_us - 1), vote(timed, 2, 1, received_us=end_us))
    assert codes(stored) == [[(1, "voting_not_open")]]
    assert totals(database, timed) == (1, 0, 0)


def test_an_old_periods_timer_leaves_the_next_one_alone(database):
    timed = open_for_a_minute(database).poll_id
    end_us = _LATER_US + 60 * _S
    # Given a host who closed and opened again shortly before the end, and workers who hear of it in the wrong order
    change(database, timed, "closed", end_us, actor=TIMER)
    change(database, timed, "closed", end_us - 2 * _S)
    again = change(database, timed, "open", end_us - _S).poll
    assert (again.state, again.closes_at_us) == (PollState.OPEN, end_us + 59 * _S)
    # And one who opens again before anybody has committed the close
    late = change(database, timed, "open", end_us + 59 * _S + 5)
    assert (late.poll.state, late.changed, late.poll.reopened_count) == (PollState.OPEN, True, 2)
    assert late.poll.closes_at_us == end_us + 119 * _S + 5
    assert not change(database, timed, "closed", end_us + 59 * _S, actor=TIMER).changed


@pytest.mark.parametrize(
    "rules",
    [
        PollRules(Results.HOST),
        PollRules(vote_change=False),
        PollRules(close_after_s=1),
        PollRules(max_participants=1),
    ],
)
def test_rules_in_use_are_not_migrated_away(database, settings, rules):
    poll(database, rules=rules)
    try:
        with pytest.raises(peewee.InternalError, match="rules of their own"):
            migrate_down(settings, to=2)
    finally:
        migrate_up(settings)  # those behind it went down


def test_a_period_lasts_as_long_as_it_should_however_late_its_opening_is_recorded(database):
    # Given an opening that waited for a slow database for longer than the poll is to be open
    timed = poll(database, rules=PollRules(close_after_s=60)).poll_id
    before_us = now_us()
    asked_us = before_us - 90 * _S
    command = ChangeState(uuid4(), NODE, timed, PollState.OPEN, asked_us)
    # When it is recorded at last
    opened = change_state(database, command, before_us).poll
    # Then the period begins now, and has its whole time; a repeat of the command moves nothing
    assert before_us <= opened.opened_at_us <= now_us()
    assert opened.closes_at_us == opened.opened_at_us + 60 * _S
    assert change_state(database, command, now_us()).poll == opened
    assert poll_store.due_closes(database, opened.closes_at_us - 1) == []
    received = (opened.opened_at_us, opened.closes_at_us - 1, opened.closes_at_us)
    votes = [vote(timed, who, 0, received_us=at_us) for who, at_us in enumerate(received, 1)]
    assert codes(store(database, *votes)) == [[(2, "voting_not_open")]]
    # And the order of changes is still that in which they were asked for
    assert opened.state_changed_at_us == asked_us
    late = change(database, timed, "closed", asked_us + 1)
    assert (late.poll.state, late.previous_state) == (PollState.CLOSED, PollState.OPEN)
    assert rows(database, "SELECT opened_at_us, closed_at_us FROM voting_periods") == [(asked_us + 1, asked_us + 1)]


def test_a_period_begins_when_the_opening_has_got_the_polls_lock(database):
    timed = poll(database, rules=PollRules(close_after_s=60)).poll_id
    command = ChangeState(uuid4(), NODE, timed, PollState.OPEN, now_us())
    with ThreadPoolExecutor(1) as other:
        with database.transaction():
            database.execute("SELECT FROM polls WHERE id = %s FOR UPDATE", (timed,))
            opening = other.submit(change_state, database, command, now_us())
            waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
            wait_until(lambda: rows(database, waiting), 30, "nobody waits for the lock")
            released_us = now_us()
        assert opening.result(30).poll.opened_at_us >= released_us
