"""The demo fills a poll with people who come, vote, and change their minds, and ends by itself."""

import re

import pytest

from scripts import demo_poll
from scripts.demo_poll import OPTIONS, fill
from scripts.loadtest import account, rest


def test_it_prints_the_addresses_ends_by_itself_and_leaves_a_final_result(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["demo", "--url", base_url, "--voters", "20", "--seconds", "8"])
    assert demo_poll.main() == 0
    said = capsys.readouterr().out
    shown = re.search(r"/screen/(\w{6})\n", said)
    assert shown is not None
    code = shown[1]
    assert f"{base_url}/j/{code}\n" in said and re.search(rf"/host/{code}#\S+\n", said)
    base = rest.parse_base(base_url)
    assert rest.call(base, "GET", f"/api/polls/{code}")["state"] == "closed"
    assert 0 < sum(rest.totals(base, code).votes) <= 20


async def test_people_change_their_minds_and_only_the_latest_choice_is_counted(
    base_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_poll, "_MIND_S", 0.2)
    base = rest.parse_base(base_url)
    room = rest.open_poll(base, "Which?", OPTIONS)
    guests = await fill(base, room, 12, 8, arrival_s=0.5)
    assert len({guest.ledger.participant_id for guest in guests}) == 12
    assert sum(guest.ledger.tally().acked for guest in guests) > 12
    held = account.settle(lambda: [guest.ledger for guest in guests], [base], database_url, 30)
    assert held.findings == [] and held.rows == 12
