"""The account's rules, among them tables that were corrupted on purpose and must be found out."""

import pytest

from scripts.loadtest import account
from scripts.loadtest.account import StoredVote, check_table, check_totals, claims_of, totals_fit
from scripts.loadtest.ledger import ACKED, RECORDED, REFUSED, REJECTED, RESENT, Claim, Tally, VoterLedger
from scripts.loadtest.rest import Totals, parse_base

ROOM = "ABC234"


def ledger(*votes: tuple[int, int], participant: str = "p1") -> VoterLedger:
    """A voter that sent these (option, marks)."""
    made = VoterLedger(ROOM, participant)
    for option, marks in votes:
        made.mark(made.sent(option), marks)
    return made


def found(*rows: tuple[str, int], voters: list[VoterLedger]) -> list[str]:
    table = [StoredVote(ROOM, participant, option) for participant, option in rows]
    return [finding.kind for finding in check_table(claims_of(voters), table)]


@pytest.mark.parametrize(
    ("votes", "required", "allowed"),
    [
        ([], False, set()),
        ([(0, 0)], False, {0}),
        ([(0, ACKED), (1, ACKED)], True, {1}),
        ([(0, ACKED), (1, 0)], True, {0, 1}),
        ([(0, ACKED), (1, REFUSED), (2, 0)], True, {0, 1, 2}),
        ([(0, 0), (1, ACKED)], True, {1}),
        ([(0, RECORDED)], True, {0}),
        ([(0, ACKED), (1, ACKED | REJECTED)], True, {0}),
        ([(0, ACKED | REJECTED)], False, set()),
        ([(0, ACKED), (1, ACKED | RESENT | REJECTED)], True, {0, 1}),
        ([(2, ACKED | RESENT)], True, {2}),
    ],
)
def test_a_claim_is_the_last_acked_vote_or_a_later_one(votes, required, allowed):
    assert ledger(*votes).claim() == Claim(required, frozenset(allowed))


def test_a_clean_table_has_no_findings():
    voters = [ledger((0, ACKED), (1, ACKED)), ledger((2, 0), participant="p2"), ledger(participant="p3")]
    assert found(("p1", 1), voters=voters) == []
    assert found(("p1", 1), ("p2", 2), voters=voters) == []


def test_ids_with_and_without_dashes_are_the_same_participant():
    voters = [ledger((1, ACKED), participant="0190A5B2-0000-7000-8000-000000000001")]
    assert found(("0190a5b2000070008000000000000001", 1), voters=voters) == []


def test_a_lost_acked_vote_is_found():
    assert found(voters=[ledger((1, ACKED))]) == [account.MISSING]


def test_a_doubled_vote_is_found():
    assert found(("p1", 1), ("p1", 1), voters=[ledger((1, ACKED))]) == [account.DOUBLED]


@pytest.mark.parametrize("stored", [0, 2])
def test_a_wrong_option_is_found(stored):
    # Neither an older choice nor one that was never sent may stand in for the acked one.
    assert found(("p1", stored), voters=[ledger((0, ACKED), (1, ACKED))]) == [account.WRONG_OPTION]


def test_a_row_of_somebody_who_sent_nothing_is_found():
    assert found(("p1", 0), voters=[ledger()]) == [account.UNSENT]
    assert found(("stranger", 0), voters=[]) == [account.UNSENT]


def test_a_rejected_vote_that_is_stored_all_the_same_is_found():
    assert found(("p1", 1), voters=[ledger((0, ACKED), (1, ACKED | REJECTED))]) == [account.WRONG_OPTION]
    assert found(("p1", 1), voters=[ledger((1, REJECTED))]) == [account.UNSENT]


def test_totals_must_be_the_sums_of_the_rows_on_every_node():
    rows = [StoredVote(ROOM, "p1", 1), StoredVote(ROOM, "p2", 1), StoredVote("OTHER2", "p1", 0)]
    right, late = Totals((0, 2), 5, False), Totals((0, 1), 4, False)
    assert check_totals(ROOM, {"a": right, "b": right}, [], rows) == []
    assert [finding.kind for finding in check_totals(ROOM, {"a": right, "b": late}, [], rows)] == [account.TOTALS] * 2


@pytest.mark.parametrize(
    ("votes", "fits"),
    [((1, 1), True), ((2, 0), True), ((2, 1), True), ((3, 0), True), ((0, 2), False), ((1, 0), False), ((4, 0), False)],
)
def test_without_a_database_totals_must_be_reachable_by_some_choice(votes, fits):
    claims = [Claim(True, frozenset({0})), Claim(True, frozenset({0, 1})), Claim(False, frozenset({0, 1}))]
    assert totals_fit(votes, claims) is fits


def test_a_tally_counts_each_vote_once():
    voter = ledger(
        (0, ACKED), (1, REFUSED), (0, 0), (1, ACKED | REJECTED), (0, REJECTED), (1, ACKED | REFUSED | RESENT)
    )
    assert voter.tally() == Tally(sent=6, acked=3, refused=1, rejected=2, unanswered=1)


def test_a_mark_is_set_once_and_only_on_a_vote_that_was_sent():
    voter = ledger((0, 0))
    assert voter.mark(1, ACKED)
    assert not voter.mark(1, ACKED)
    assert not voter.mark(2, ACKED)
    assert not voter.mark(0, ACKED)


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "https://127.0.0.1:1", "ftp://127.0.0.1"])
def test_only_plain_loopback_addresses_are_loaded(url):
    with pytest.raises(ValueError):
        parse_base(url)
    assert parse_base("http://127.0.0.1:4000").port == 4000
