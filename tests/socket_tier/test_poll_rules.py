"""What a host chose for a poll holds on the server: who sees totals, whether votes change, its end, how many join."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.socket_tier.browsers import Browser, both_transports
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

StoredVotes = Callable[[str], dict[str, int]]
NEVER = [0, 0, 0]
FINAL_WITHIN_S = 80.0  # nodes that other tests kill are waited for, one after the other


async def hosting(new_browser: NewBrowser, poll: Poll) -> Browser:
    host = await new_browser().connect()
    assert (await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token}))["role"] == "host"
    return host


async def voted(browser: Browser, poll: Poll, name: str, option: int) -> dict[str, Any]:
    joined = await browser.join(poll.code, name)
    assert (await browser.vote(poll.code, joined, option))["success"]
    return joined


def seen(browser: Browser) -> list[list[int]]:
    """All totals with a vote in them that a browser was ever sent."""
    return [update["votes"] for update in browser.heard("vote-update") if any(update["votes"])]


async def test_a_poll_without_rules_has_the_usual_ones(rest: Rest) -> None:
    poll = await rest.create()
    usual = {"results": "always", "voteChange": True, "closeAfterS": None, "maxParticipants": None}
    answer = await rest.read(poll)
    assert (answer["rules"], answer["closesAt"]) == (usual, None)


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"results": "nobody"}, "Invalid results: expected always, after-vote, after-close or host"),
        ({"results": 1}, "Invalid results: expected always, after-vote, after-close or host"),
        ({"voteChange": "no"}, "Invalid voteChange"),
        ({"closeAfterS": 0}, "closeAfterS must be 1-86400"),
        ({"closeAfterS": 86401}, "closeAfterS must be 1-86400"),
        ({"closeAfterS": 1.5}, "closeAfterS must be 1-86400"),
        ({"maxParticipants": 0}, "maxParticipants must be 1-100000"),
        ({"maxParticipants": True}, "maxParticipants must be 1-100000"),
        ({"color": "red"}, "Invalid payload: it has fields that are not known here"),
        ([], "Invalid payload: expected an object"),
    ],
)
async def test_rules_that_cant_be_are_refused(rest: Rest, rules: object, error: str) -> None:
    body = {"question": "Tea?", "options": ["yes", "no"], "rules": rules}
    answer = await rest.request("POST", "/api/polls", json=body)
    assert (answer.status, answer.body["error"]) == (400, error)


@both_transports
async def test_totals_show_to_those_who_voted_and_to_the_host(new_browser: NewBrowser, rest: Rest) -> None:
    # Given a poll that shows its totals after one's vote; and two participants, a host and a screen
    poll = await rest.open_poll(results="after-vote")
    host = await hosting(new_browser, poll)
    ada, bo, screen = [await new_browser().connect() for _ in range(3)]
    await screen.call("join", {"roomCode": poll.code, "viewer": True})
    await bo.join(poll.code, "Bo")
    # When one of them votes
    await voted(ada, poll, "Ada", 1)
    # Then she and the host see the totals
    for browser in (ada, host):
        await browser.hears("vote-update", votes=[0, 1, 0])
    # And the others learn how many votes there are, and no more, on any way
    for browser in (bo, screen):
        update = await browser.hears("vote-update", voteCount=1)
        assert (update["votes"], update["percentages"], update["hidden"]) == (NEVER, NEVER, True)
        assert not seen(browser)
    assert (await rest.read(poll))["votes"] == NEVER
    late = await new_browser().connect()
    assert (await late.join(poll.code, "Cy"))["poll"]["votes"] == NEVER
    with_token = await rest.get(f"/api/polls/{poll.code}", headers={"Authorization": f"Bearer {poll.host_token}"})
    assert with_token.body["votes"] == [0, 1, 0]
    with_another = await rest.get(f"/api/polls/{poll.code}", headers={"Authorization": "Bearer another"})
    assert with_another.body["votes"] == NEVER
    # And when the poll is closed everybody sees them
    await host.change(poll.code, "closed")
    for browser in (ada, bo, screen, late, host):
        await browser.hears("vote-update", votes=[0, 1, 0], final=True)
    assert (await rest.read(poll))["votes"] == [0, 1, 0]


async def test_who_voted_sees_totals_in_another_tab_and_after_a_reload(
    new_browser: NewBrowser, rest: Rest, node_urls: list[str]
) -> None:
    poll = await rest.open_poll(results="after-vote")
    ada, other_tab = [await new_browser(url, jar="Ada's").connect() for url in (node_urls[0], node_urls[-1])]
    joined = await ada.join(poll.code, "Ada")
    assert (await other_tab.join(poll.code, "Ada"))["participantId"] == joined["participantId"]
    assert (await ada.vote(poll.code, joined, 2))["success"]
    for browser in (ada, other_tab):
        await browser.hears("vote-update", votes=[0, 0, 1])
    reloaded = await new_browser(jar="Ada's").connect()
    again = await reloaded.join(poll.code, "Ada")
    assert (again["previousVote"], again["poll"]["votes"]) == (2, [0, 0, 1])


@pytest.mark.parametrize("results", ["after-close", "host"])
async def test_totals_wait_for_the_close_or_are_the_hosts_alone(
    new_browser: NewBrowser, rest: Rest, results: str
) -> None:
    poll = await rest.open_poll(results=results)
    host = await hosting(new_browser, poll)
    ada, screen = [await new_browser().connect() for _ in range(2)]
    await screen.call("join", {"roomCode": poll.code, "viewer": True})
    await voted(ada, poll, "Ada", 0)
    await host.hears("vote-update", votes=[1, 0, 0])
    for browser in (ada, screen):
        await browser.hears("vote-update", voteCount=1)
    assert not seen(ada) and not seen(screen)
    await host.change(poll.code, "closed")
    await host.hears("vote-update", votes=[1, 0, 0], final=True)
    if results == "host":
        for browser in (ada, screen):
            assert (await browser.hears("vote-update", final=True))["hidden"]
        assert not seen(ada) and not seen(screen)
        return
    for browser in (ada, screen):
        await browser.hears("vote-update", votes=[1, 0, 0], final=True)
    # Opened again they are hidden again
    before = len(seen(ada))
    await host.change(poll.code, "open")
    await ada.hears("poll-state-changed", newState="open")
    cy = await new_browser().connect()
    await voted(cy, poll, "Cy", 1)
    await ada.hears("vote-update", voteCount=2)
    assert len(seen(ada)) == before


@both_transports
async def test_where_votes_stand_a_second_choice_is_refused(
    new_browser: NewBrowser, rest: Rest, stored_votes: StoredVotes
) -> None:
    poll = await rest.open_poll(voteChange=False)
    ada = await new_browser(jar="Ada's").connect()
    joined = await voted(ada, poll, "Ada", 1)
    refused = await ada.vote(poll.code, joined, 2)
    assert (refused["error"], refused["code"]) == ("Votes can't be changed in this poll", "vote_stands")
    # The same choice again, as a client sends it that has missed the answer, is none
    assert (await ada.vote(poll.code, joined, 1))["success"]
    # And a reload is no way around it
    await ada.close()
    reloaded = await new_browser(jar="Ada's").connect()
    joined = await reloaded.join(poll.code, "Ada")
    assert joined["previousVote"] == 1
    assert not (await reloaded.vote(poll.code, joined, 0))["success"]
    await eventually(lambda: stored_votes(poll.code) == {joined["participantId"]: 1}, "the first vote alone is stored")


async def test_of_votes_sent_at_once_the_first_stands(
    new_browser: NewBrowser, rest: Rest, stored_votes: StoredVotes
) -> None:
    # A node takes votes that come before the first one's ack; the worker decides.
    poll = await rest.open_poll(voteChange=False)
    ada = await new_browser(jar="Ada's").connect()
    joined = await ada.join(poll.code, "Ada")
    names = [f"vote {number}" for number in range(3)]
    acks = await asyncio.gather(
        *(ada.vote(poll.code, joined, option, commandId=name) for option, name in enumerate(names))
    )
    taken = [name for name, ack in zip(names, acks, strict=True) if ack["success"]]
    assert taken[0] == names[0]
    await ada.hears("vote-recorded", commandId=names[0])
    for name in taken[1:]:
        assert (await ada.hears("vote-rejected", commandId=name))["code"] == "vote_stands"
    assert stored_votes(poll.code) == {joined["participantId"]: 0}
    # And that is the choice that she finds when she comes back, not the refused one that was acked last
    await ada.close()
    again = await new_browser(jar="Ada's").connect()

    async def first_choice() -> bool:
        return (await again.join(poll.code, "Ada"))["previousVote"] == 0

    await eventually(first_choice, "her choice")
    assert (await again.vote(poll.code, joined, 0))["success"]


@both_transports
async def test_a_poll_closes_by_itself_at_the_servers_time(
    new_browser: NewBrowser, rest: Rest, stored_votes: StoredVotes
) -> None:
    poll = await rest.open_poll(closeAfterS=3)
    ada = await new_browser().connect()
    joined = await voted(ada, poll, "Ada", 1)
    opened = await ada.hears("poll-state-changed", newState="open")
    end = datetime.fromisoformat(opened["closesAt"]).timestamp()
    assert joined["poll"]["closesAt"] == opened["closesAt"]
    assert end <= time.time() + 3
    closed = await ada.hears("poll-state-changed", newState="closed")
    # The clock looks ten times a second; a busy machine is given longer.
    assert 0 <= datetime.fromisoformat(closed["timestamp"]).timestamp() - end < 2
    assert (await ada.vote(poll.code, joined, 2))["error"] == "Voting is not open"
    await ada.hears("vote-update", FINAL_WITHIN_S, votes=[0, 1, 0], final=True)
    answer = await rest.read(poll)
    assert (answer["state"], answer["final"], answer["closesAt"]) == ("closed", True, None)
    assert stored_votes(poll.code) == {joined["participantId"]: 1}
    # Opened again, it closes again
    assert (await rest.change(poll, "open")).status == 200
    await eventually(lambda: len(ada.heard("poll-state-changed", newState="closed")) == 2, "closed a second time")


async def test_a_poll_that_nobody_looks_at_closes_as_well(rest: Rest) -> None:
    poll = await rest.open_poll(closeAfterS=1)

    async def final() -> bool:
        return bool((await rest.read(poll))["final"])

    deadline = time.monotonic() + FINAL_WITHIN_S
    while not await final():
        assert time.monotonic() < deadline, "it is still open"
        await asyncio.sleep(0.2)


async def test_a_full_poll_takes_nobody_else_and_everybody_who_was_in(new_browser: NewBrowser, rest: Rest) -> None:
    poll = await rest.create(rules={"maxParticipants": 2})
    for name in ("Ada", "Bo"):
        await (await new_browser(jar=name).connect()).join(poll.code, name)
    cy = await new_browser().connect()
    refused = await cy.call("join-room", {"roomCode": poll.code, "nickname": "Cy"})
    assert (refused["error"], refused["code"]) == ("Room is full", "room_full")
    again = await new_browser(jar="Bo").connect()
    assert (await again.join(poll.code, "Bo"))["reconnected"]
