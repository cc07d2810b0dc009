"""The breaker's states, by a clock handed in."""

import pytest

from workers.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(threshold=3, pause_s=1, pause_max_s=4, clock=clock)


def fail(breaker, times):
    for _ in range(times):
        assert breaker.admit()
        breaker.failed()


@pytest.mark.proves("FR-036")
def test_it_opens_after_failures_in_a_row(breaker):
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.admit()
    breaker.failed()
    assert breaker.state == "open"
    assert not breaker.admit()


@pytest.mark.proves("FR-036")
def test_after_a_pause_one_caller_tries_and_success_closes_it(breaker, clock):
    fail(breaker, 3)
    clock.now = 1.01
    assert breaker.admit()
    assert not breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.admit()


def test_a_failed_trial_pauses_for_longer(breaker, clock):
    fail(breaker, 3)
    clock.now = 1.01
    fail(breaker, 1)
    clock.now = 1.01 + 0.99  # half of the doubled pause at least
    assert not breaker.admit()
    clock.now = 1.01 + 2.01
    assert breaker.admit()


def test_an_undecided_trial_frees_the_place(breaker, clock):
    fail(breaker, 3)
    clock.now = 1.01
    assert breaker.admit()
    breaker.undecided()
    assert breaker.admit()


def test_each_change_is_told_once_with_its_reason(clock):
    told = []
    breaker = Breaker(threshold=2, pause_s=1, pause_max_s=1, clock=clock, on_change=lambda *change: told.append(change))
    for reason in (
        "connection_lost",
        "connection_lost",
        "connection_lost",
        "read_only",
        "connection_lost",
        "read_only",
    ):
        clock.now += 2
        assert breaker.admit()
        breaker.failed(reason, f"text of {reason}")
    assert told == [
        ("open", "connection_lost", "text of connection_lost"),
        ("still open", "read_only", "text of read_only"),
    ]
    told.clear()
    clock.now += 2
    assert breaker.admit()
    breaker.succeeded()
    breaker.succeeded()
    assert breaker.trip("deadline", "a probe hangs")
    assert not breaker.trip("deadline", "a probe hangs")
    assert told == [("closed", "", ""), ("open", "deadline", "a probe hangs")]
