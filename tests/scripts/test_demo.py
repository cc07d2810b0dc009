"""The demo fills a poll with people who come, vote, and change their minds, and ends by itself."""

import json
import re
import urllib.request

import pytest

from scripts import demo_poll
from scripts.demo_poll import OPTIONS, fill
from scripts.loadtest import account, rest


def totals(base_url: str, code: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{base_url}/api/polls/{code}", timeout=20) as answer:
        return json.load(answer)


def test_it_prints_the_addresses_ends_by_itself_and_leaves_a_final_result(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--url", base_url, "--voters", "20", "--seconds", "4"]
    monkeypatch.setattr("sys.argv", words)
    assert demo_poll.main() == 0
    said = capsys.readouterr().out
    code = re.search(r"/screen/([2-9A-Z]{6})\n", said)[1]  # type: ignore[index]
    assert f"{base_url}/j/{code}" in said and re.search(rf"/host/{code}#\S+", said)
    poll = totals(base_url, code)
    assert poll["state"] == "closed"
    assert 10 <= sum(poll["votes"]) <= 20  # type: ignore[arg-type, call-overload]


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
