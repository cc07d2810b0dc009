"""Participants: stored once, whoever comes first has the nickname, no vote is ever void for a name."""

import threading

import pytest

from models.participant_store import read_choices, record_presence, register
from models.wire.commands import Sighting
from models.wire.notices import Choice
from tests.models.given import open_poll, person, poll, registration, rows, store, totals, vote


@pytest.mark.proves("FR-002")
def test_registering_again_changes_nothing(database):
    here = poll(database).poll_id
    assert register(database, [registration(here, 1, "Ada")]) == []
    assert register(database, [registration(here, 1, "Ada")]) == []
    assert rows(database, "SELECT participant_id, nickname, nickname_key FROM participants") == [
        (person(1), "Ada", "ada")
    ]


def test_whoever_has_a_nickname_keeps_it(database):
    here = poll(database).poll_id
    register(database, [registration(here, 1, "Ada")])
    register(database, [registration(here, 1, "Grace", joined_us=20)])
    assert rows(database, "SELECT nickname, nickname_key FROM participants") == [("Ada", "ada")]


def test_a_nickname_that_is_held_is_a_conflict_each_time_and_voids_nothing(database):
    here = open_poll(database).poll_id
    register(database, [registration(here, 1, "Ada")])
    late = registration(here, 2, "ADA", joined_us=20)
    store(database, vote(here, 2, 0))
    assert register(database, [late]) == [late]
    assert register(database, [late]) == [late]
    stored = "SELECT nickname, nickname_key FROM participants WHERE participant_id = %s"
    assert rows(database, stored, (person(2),)) == [("ADA", None)]
    assert totals(database, here) == (1, 0, 0)


def test_within_one_message_the_first_to_join_has_the_nickname(database):
    here = poll(database).poll_id
    late, early = registration(here, 1, "Ada", joined_us=20), registration(here, 2, "Ada", joined_us=10)
    assert register(database, [late, early]) == [late]


def test_the_same_nickname_in_two_polls_is_no_conflict(database):
    here, there = poll(database).poll_id, poll(database).poll_id
    assert register(database, [registration(here, 1, "Ada"), registration(there, 2, "Ada")]) == []


@pytest.mark.proves("FR-002")
def test_a_registration_fills_in_the_stub_of_a_vote_that_overtook_it(database):
    here = open_poll(database).poll_id
    store(database, vote(here, 1, 0, seq=2_000))
    register(database, [registration(here, 1, "Ada", joined_us=1_500)])
    joined = "SELECT nickname, nickname_key, extract(epoch from joined_at)::float FROM participants"
    assert rows(database, joined) == [("Ada", "ada", 0.0015)]


def test_registrations_that_want_each_others_nicknames_never_deadlock(database):
    here = poll(database).poll_id
    errors: list[BaseException] = []

    def work(turn: int) -> None:
        try:
            for number in range(10):
                names = [f"name {number} {place}" for place in range(20)]
                who = 1 + 10_000 * turn + 100 * number
                ordered = names if turn % 2 else names[::-1]
                register(database, [registration(here, who + place, name) for place, name in enumerate(ordered)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    counts = "SELECT count(*), count(nickname_key) FROM participants"
    assert rows(database, counts) == [(800, 200)]


@pytest.mark.proves("FR-002")
def test_the_newest_sighting_stands(database):
    here = poll(database).poll_id
    register(database, [registration(here, 1, "Ada", joined_us=10)])
    record_presence(database, [Sighting(here, person(1), False, 300), Sighting(here, person(1), True, 200)])
    record_presence(database, [Sighting(here, person(1), True, 250)])
    seen = "SELECT connected, extract(epoch from last_seen_at)::float FROM participants"
    assert rows(database, seen) == [(False, 0.0003)]


@pytest.mark.proves("FR-004", "US1.2", "US5.5")
def test_choices_are_read_in_the_order_asked_for(database):
    here = open_poll(database).poll_id
    register(database, [registration(here, 1, "Ada"), registration(here, 2, "Bob")])
    store(database, vote(here, 2, 1, seq=2_500), vote(here, 3, 2, seq=2_600))
    assert read_choices(database, here, [person(3), person(1), person(2), person(9)]) == [
        Choice(person(3), 2, 2_600),
        Choice(person(1), -1, 0),
        Choice(person(2), 1, 2_500),
        Choice(person(9), -1, 0),
    ]
