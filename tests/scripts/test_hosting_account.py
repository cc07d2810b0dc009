"""What is held against a host's acks: the log, votes that came too late, finals, resumes."""

from __future__ import annotations

import pytest

from scripts.faults import hosts
from scripts.faults.hosts import CLOSE, FINAL, Round, Voter
from scripts.loadtest.account import TOTALS
from scripts.loadtest.ledger import ACKED, VoterLedger
from scripts.loadtest.rest import Base, Room

NOBODY = Base("http://127.0.0.1:1", "127.0.0.1", 1)


def a_round(*log: str, finals: dict[int, tuple[int, ...]] | None = None) -> Round:
    voter = Voter(NOBODY, "ABCDEF", "Voter 1")
    voter.finals = finals or {}
    return Round(Room("ABCDEF", "", 4), [voter], list(log))


@pytest.mark.parametrize(
    ("acked", "log"),
    [
        (("open", "closed"), ("open", "closed")),
        (("open", "closed"), ("open", "open", "closed", "closed")),  # tries whose answer was lost
        (("open", "closed", "open", "closed"), ("open", "closed", "open", "closed")),
    ],
)
def test_a_log_with_every_acked_command_in_its_order_is_right(acked: tuple[str, ...], log: tuple[str, ...]) -> None:
    assert hosts._check_log(a_round(*acked), log) == []


@pytest.mark.parametrize("log", [(), ("open",), ("closed", "open"), ("open", "closed", "open")])
def test_a_log_that_lacks_an_acked_close_or_has_another_order_is_found(log: tuple[str, ...]) -> None:
    (found,) = hosts._check_log(a_round("open", "closed"), log)
    assert found.kind == CLOSE


def test_a_close_has_one_final_version_and_nodes_tell_it() -> None:
    told = {(2, 1, 0, 0)}
    assert hosts._check_finals(a_round("open", "closed", finals={7: (2, 1, 0, 0)}), told) == []
    assert hosts._check_finals(a_round("open", "closed"), told) == []  # nobody was there to hear it
    (twice,) = hosts._check_finals(a_round("open", "closed", finals={7: (0, 0, 0, 0), 9: (2, 1, 0, 0)}), told)
    assert twice.kind == FINAL
    (other,) = hosts._check_finals(a_round("open", "closed", finals={7: (1, 1, 0, 0)}), told)
    assert other.kind == TOTALS


def test_a_vote_after_an_acked_close_is_allowed_nowhere() -> None:
    ledger = VoterLedger("ABCDEF", "p")
    for option in (1, hosts._TOO_LATE):
        ledger.mark(ledger.sent(option), ACKED)
    assert hosts._without_late(ledger).claim().allowed == {1}
    assert ledger.claim().allowed == {hosts._TOO_LATE}  # as it was told
