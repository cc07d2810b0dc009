"""scripts/demo: people arrive, vote and change their minds, and the poll shows it."""

from scripts.demo_poll import OPTIONS, QUESTION, fill
from scripts.loadtest import rest


async def test_a_demo_fills_a_poll_with_people_who_change_their_minds(base_url: str) -> None:
    # Given a poll that the demo has opened
    base = rest.parse_base(base_url)
    room = rest.open_poll(base, QUESTION, OPTIONS)
    # When its people live for a while
    guests = await fill(base, room, voters=12, seconds=6, arrival_s=1)
    # Then everybody has voted, somebody more than once, and each stands in the totals once
    votes = [len(guest.ledger.choices) for guest in guests]
    assert min(votes) >= 1 and max(votes) >= 2
    rest.change_state(base, room, "closed")
    totals = rest.totals(base, room.code)
    assert sum(totals.votes) == len(guests)
