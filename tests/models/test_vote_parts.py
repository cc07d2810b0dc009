"""Batches with votes of a locked poll: the others' are stored at once, and each part takes effect once."""

import psycopg2
import pytest

from models.vote_parts import find_locked
from models.vote_store import poisonous_votes, store_batches
from tests.models.given import NODE, batch, codes, open_poll, rows, totals, vote


@pytest.fixture
def here(database) -> int:
    return open_poll(database).poll_id


@pytest.fixture
def locked(database) -> int:
    return open_poll(database).poll_id


def accounts(database) -> dict[int, int]:
    return dict(rows(database, "SELECT poll_id, batches FROM poll_batches"))


def left_out(database) -> list[tuple]:
    return rows(database, "SELECT batch_id, poll_id FROM left_out_polls")


def test_the_rest_of_a_batch_is_stored_and_what_was_left_out_when_it_comes_again(database, here, locked):
    # Given a batch with votes of two polls, one of them refused, and one of another
    mixed = batch(vote(here, 1, 0), vote(locked, 1, 1), vote(here, 2, 9), vote(locked, 2, 9))
    other = batch(vote(here, 3, 0))
    # When one of the polls is locked
    stored = store_batches(database, [mixed, other], 5_000, {locked})
    # Then everything else is decided
    assert stored.rejections == [None, ()]
    assert stored.changed_polls == [here]
    assert (totals(database, here), totals(database, locked)) == ((2, 0, 0), (0, 0, 0))
    assert accounts(database) == {here: 2}
    # And as long as it is locked a repeat changes nothing
    assert store_batches(database, [mixed], 5_000, {locked}).rejections == [None]
    assert accounts(database) == {here: 2}
    # But afterwards it is finished, with the answers for all of it
    again = store_batches(database, [mixed], 5_000)
    assert codes(again) == [[(2, "invalid_option"), (3, "invalid_option")]]
    assert again.changed_polls == [locked]
    assert (totals(database, here), totals(database, locked)) == ((2, 0, 0), (0, 1, 0))
    assert accounts(database) == {here: 2, locked: 1}
    assert left_out(database) == []
    # Once
    assert codes(store_batches(database, [mixed], 5_000)) == codes(again)
    assert accounts(database) == {here: 2, locked: 1}


def test_a_batch_of_several_locked_polls_is_finished_as_they_become_free(database, here, locked):
    mixed = batch(vote(here, 1, 0), vote(locked, 1, 1))
    assert store_batches(database, [mixed], 5_000, {here, locked}).rejections == [None]
    assert accounts(database) == {}
    assert store_batches(database, [mixed], 5_000, {locked}).rejections == [None]
    assert accounts(database) == {here: 1}
    assert store_batches(database, [mixed, mixed], 5_000).rejections == [(), ()]
    assert accounts(database) == {here: 1, locked: 1}


def test_a_batch_that_stands_twice_in_a_call_is_left_out_once(database, here, locked):
    mixed = batch(vote(here, 1, 0), vote(locked, 1, 1))
    assert store_batches(database, [mixed, mixed], 5_000, {locked}).rejections == [None, None]
    assert left_out(database) == [(mixed.batch_id, locked)]
    assert accounts(database) == {here: 1}


def test_a_trial_leaves_what_was_left_out(database, here, locked):
    mixed = batch(vote(here, 1, 0), vote(locked, 1, 1))
    store_batches(database, [mixed], 5_000, {locked})
    assert poisonous_votes(database, mixed, 5_000) == []
    assert left_out(database) == [(mixed.batch_id, locked)]
    assert rows(database, "SELECT node_id FROM poll_batches") == [(NODE,)]


def test_locked_polls_are_found_without_waiting(database, settings, here, locked):
    with psycopg2.connect(settings.url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM polls WHERE id = %s FOR UPDATE", (locked,))
        assert find_locked(database, {here, locked, 999}) == {locked}
    holder.close()
    assert find_locked(database, {here, locked, 999}) == set()
