"""A voter that is cut off: how often it tries to come back, and what is told of it."""

import asyncio
from array import array

from scripts.loadtest.schedule import ClosedLoop
from scripts.loadtest.voter import BROWSER, Comeback, Counts, Seat, Voter
from scripts.stack.ports import LOOPBACK, any_free


def test_a_browser_comes_back_after_a_second_or_so_and_later_each_time():
    pauses = list(BROWSER.pauses())
    assert len(pauses) == 5
    for pause_s, about_s in zip(pauses, (1, 2, 4, 5, 5), strict=True):
        assert 0.5 * about_s <= pause_s <= 1.5 * about_s


async def test_a_voter_gives_up_after_its_tries():
    # Given a voter who was there, and nobody at its address any more
    counts = Counts()
    seat = Seat(0, "ABC234", 2, LOOPBACK, any_free())
    gate = asyncio.Semaphore(1)
    voter = Voter(seat, "run", ClosedLoop(), counts, array("f"), gate, Comeback(0.01, 0.02, tries=3))
    voter._away_since = 1.0
    # When it tries to come back, then it is gone after three tries, and has been away since
    await voter._come_back()
    assert (voter.gone(), counts.failed_returns, voter.away_s(8.5)) == (True, 3, 7.5)
