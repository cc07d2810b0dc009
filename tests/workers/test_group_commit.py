"""Merging, holding and narrowing, with a store of the test's own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from models.database import DatabaseUnavailable
from workers.errors import GiveBack
from workers.group_commit import GroupCommit


@pytest.fixture
def stopping():
    return threading.Event()


@pytest.fixture
def commits(stopping):
    running = []

    def commits(store, most=100, hold_s=5.0, **options):
        commit = GroupCommit(
            "test", store, weigh=lambda item: 1, most=most, hold_s=hold_s, stopping=stopping, **options
        )
        commit.start()
        running.append(commit)
        return commit

    yield commits
    for commit in running:
        commit.close()


def submit_all(commit, items):
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(commit.submit, item) for item in items]
    return [future.exception() or future.result() for future in futures]


def test_what_waits_together_is_stored_together(commits):
    calls, busy = [], threading.Event()

    def store(items):
        calls.append(len(items))
        busy.wait(0.2)  # the others arrive meanwhile
        return [item * 10 for item in items]

    assert submit_all(commits(store), range(8)) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert len(calls) <= 3


def test_under_load_transactions_keep_their_distance(commits):
    began = []

    def store(items):
        began.append(time.monotonic())
        return list(items)

    commit = commits(store, linger_s=0.2)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(commit.submit, range(30)))
    assert len(began) >= 3
    assert min(later - earlier for earlier, later in pairwise(began)) > 0.19


def test_after_a_rest_and_with_everybody_waiting_nothing_lingers(commits):
    commit = commits(lambda items: list(items), linger_s=30.0, callers=4)
    commit.submit(0)  # the first after a rest
    assert submit_all(commit, range(4)) == [0, 1, 2, 3]


def test_no_more_than_the_most_is_merged(commits):
    calls = []

    def store(items):
        calls.append(len(items))
        time.sleep(0.05)
        return list(items)

    submit_all(commits(store, most=3), range(10))
    assert sum(calls) == 10
    assert max(calls) <= 3


@pytest.mark.proves("FR-035")
def test_an_outage_is_waited_out(commits):
    tries = []

    def store(items):
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise DatabaseUnavailable("connect", "away")
        return list(items)

    assert commits(store).submit(1) == 1
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == sorted(pauses) or pauses[-1] > pauses[0]  # growing, up to the jitter


def test_an_outage_longer_than_the_hold_gives_the_message_back(commits):
    def away(items):
        raise DatabaseUnavailable("connect", "away")

    with pytest.raises(GiveBack):
        commits(away, hold_s=0.2).submit(1)


def test_stopping_gives_back_at_once(commits, stopping):
    def away(items):
        stopping.set()
        raise DatabaseUnavailable("connect", "away")

    started = time.monotonic()
    with pytest.raises(GiveBack):
        commits(away, hold_s=60).submit(1)
    assert time.monotonic() - started < 30


@pytest.mark.timeout(30)
def test_who_comes_after_the_end_is_sent_away_at_once(commits):
    commit = commits(lambda items: items, hold_s=60)
    commit.close()
    with pytest.raises(GiveBack):
        commit.submit(1)


def test_without_a_hold_the_caller_learns_of_the_outage_at_once(commits):
    def away(items):
        raise DatabaseUnavailable("connect", "away")

    with pytest.raises(DatabaseUnavailable):
        commits(away, hold_s=0).submit(1)


def test_one_bad_item_fails_alone(commits):
    def store(items):
        if 5 in items:
            time.sleep(0.05)
            raise ValueError("five")
        return list(items)

    answers = submit_all(commits(store), range(8))
    assert [answer for answer in answers if not isinstance(answer, ValueError)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(answers[5], ValueError)
