"""A poll of our own tells whether a service works."""

import asyncio

import pytest

from scripts import synthetic_poll
from scripts.synthetic_poll import NotReached, Voter, VotesWrong, lives


@pytest.mark.proves("FR-018", "US4.1")
def test_votes_that_are_counted_and_shown_say_that_it_works(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["synthetic-poll", base_url])
    assert synthetic_poll.main() == 0
    assert "6 voters' last choices were counted and shown: [2, 2, 2]" in capsys.readouterr().out


@pytest.mark.proves("FR-018")
async def test_a_vote_that_is_lost_is_noticed(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(_self: Voter) -> int:
        return 0

    monkeypatch.setattr(Voter, "votes", lost)
    monkeypatch.setattr(synthetic_poll, "_SHOWN_S", 1)
    with pytest.raises(VotesWrong, match=r"totals \[2, 0, 0\] never showed; the last were \[0, 0, 0\]"):
        await lives(base_url, voters=2)


@pytest.mark.proves("FR-018")
async def test_a_service_that_is_away_is_tried_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def pass_quickly(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pass_quickly)
    monkeypatch.setattr(synthetic_poll, "_AGAIN_AFTER_S", 0.2)
    # The last try may have had no time.
    with pytest.raises(NotReached, match=r"Cannot connect|TimeoutError"):
        await lives("http://127.0.0.1:9", within_s=0.5)
    assert pauses
