"""A vote's way, as a browser sees it, over each official client."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from tests.socket_tier.browsers import Browser, both_transports, every_client
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

StoredVotes = Callable[[str], dict[str, int]]


@every_client
@pytest.mark.proves("FR-002")
async def test_a_vote_is_acked_recorded_and_shown_to_everybody(
    new_browser: NewBrowser, host: Browser, poll: Poll, rest: Rest, stored_votes: StoredVotes
) -> None:
    # Given two participants
    ada, bo = [await new_browser().connect() for _ in range(2)]
    joined = await ada.join(poll.code, "Ada")
    await bo.join(poll.code, "Bo")
    # When one votes
    command = str(uuid4())
    ack = await ada.vote(poll.code, joined, 1, commandId=command)
    # Then the ack says that it is durable, under its own name
    assert (ack["success"], ack["status"], ack["commandId"]) == (True, "queued", command)
    # And after the commit the voter alone is told
    recorded = await ada.hears("vote-recorded", commandId=command)
    assert (recorded["optionIndex"], recorded["roomCode"]) == (1, poll.code)
    assert not bo.heard("vote-recorded")
    # And everybody sees the totals, which are those of the votes table and of REST
    for browser in (ada, bo, host):
        update = await browser.hears("vote-update", votes=[0, 1, 0])
        assert update["percentages"] == [0, 100, 0]
        assert update["roomCode"] == poll.code
    assert stored_votes(poll.code) == {joined["participantId"]: 1}
    assert (await rest.read(poll))["votes"] == [0, 1, 0]


@every_client
async def test_a_changed_vote_replaces_the_earlier_one(browser: Browser, poll: Poll, stored_votes: StoredVotes) -> None:
    # Given a participant who has voted
    joined = await browser.join(poll.code, "Ada")
    # When she changes her mind again and again
    for option in (0, 1, 2, 1, 0, 2):
        assert (await browser.vote(poll.code, joined, option))["success"]
    # Then the last choice alone counts
    await browser.hears("vote-update", votes=[0, 0, 1])
    assert stored_votes(poll.code) == {joined["participantId"]: 2}


@both_transports
async def test_the_same_vote_sent_again_counts_once(browser: Browser, poll: Poll, stored_votes: StoredVotes) -> None:
    joined = await browser.join(poll.code, "Ada")
    command = str(uuid4())
    for _ in range(5):
        assert (await browser.vote(poll.code, joined, 1, commandId=command))["success"]
    await browser.hears("vote-update", votes=[0, 1, 0])
    assert stored_votes(poll.code) == {joined["participantId"]: 1}


@both_transports
async def test_versions_rise_and_no_older_one_follows(new_browser: NewBrowser, host: Browser, poll: Poll) -> None:
    # Given five participants who vote at the same time, several times
    voters = []
    for name in "abcde":
        voter = await new_browser().connect()
        voters.append((voter, await voter.join(poll.code, name)))
    for option in (0, 1, 2):
        acks = await asyncio.gather(*(voter.vote(poll.code, joined, option) for voter, joined in voters))
        assert all(ack["success"] for ack in acks)
    # When the totals have come to rest
    await host.hears("vote-update", votes=[0, 0, 5])
    # Then versions have only ever risen; a repeat of one carries the same totals
    updates = host.heard("vote-update")
    assert all(one["version"] <= other["version"] for one, other in pairwise(updates))
    totals: dict[int, list[int]] = {}
    for update in updates:
        assert totals.setdefault(update["version"], update["votes"]) == update["votes"]


@every_client
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"optionIndex": 3}, "Invalid option index"),
        ({"optionIndex": -1}, "Invalid option index"),
        ({"optionIndex": 1.5}, "Invalid option index"),
        ({"optionIndex": True}, "Invalid option index"),
        ({"optionIndex": "1"}, "Invalid option index"),
        ({"optionIndex": 2**31}, "Invalid option index"),
        ({"roomCode": "ZZZZZZ"}, "Poll not found"),
        ({"roomCode": None}, "Missing required fields: roomCode, participantId, and optionIndex"),
        ({"participantId": None}, "Missing required fields: roomCode, participantId, and optionIndex"),
        ({"optionIndex": None}, "Missing required fields: roomCode, participantId, and optionIndex"),
    ],
)
async def test_a_vote_that_cant_be_says_why(browser: Browser, poll: Poll, fields: dict[str, Any], error: str) -> None:
    joined = await browser.join(poll.code, "Ada")
    request = {"roomCode": poll.code, "participantId": joined["participantId"], "optionIndex": 0, **fields}
    ack = await browser.call("submit-vote", request)
    assert (ack["success"], ack["error"]) == (False, error)


@every_client
async def test_a_vote_before_the_opening_is_refused(browser: Browser, rest: Rest) -> None:
    poll = await rest.create()
    joined = await browser.join(poll.code, "Ada")
    assert (await browser.vote(poll.code, joined, 0))["error"] == "Voting is not open"


@every_client
@pytest.mark.proves("US2.3")
async def test_nobody_votes_for_somebody_else(
    new_browser: NewBrowser, poll: Poll, run_dir: Any, stored_votes: StoredVotes
) -> None:
    # Given a participant, and another who knows her id
    victim = await (await new_browser().connect()).join(poll.code, "Ada")
    thief = await new_browser().connect()
    await thief.join(poll.code, "Mallory")
    # When the other votes with it, in the room and from outside
    inside = await thief.vote(poll.code, victim, 0)
    outside = await (await new_browser().connect()).vote(poll.code, victim, 0)
    # Then both are refused, nothing counts, and it is logged as a security event
    assert (inside["success"], inside["code"]) == (False, "foreign_participant")
    assert (outside["success"], outside["code"]) == (False, "not_joined")
    assert stored_votes(poll.code) == {}

    def logged() -> bool:
        logs = "".join(log.read_text(errors="replace") for log in (run_dir / "log").glob("node-*.log"))
        return any("foreign_participant" in line and poll.code in line for line in logs.splitlines())

    await eventually(logged, "the line in the log")


async def test_a_host_has_no_vote_by_what_is_no_id(host: Browser, poll: Poll, stored_votes: StoredVotes) -> None:
    # Given a host, whose role in the room has no participant
    # When it votes with something that names none either
    refused = await host.vote(poll.code, {"participantId": "nobody"}, 0)
    # Then that is not its own
    assert (refused["success"], refused["code"]) == (False, "not_joined")
    assert stored_votes(poll.code) == {}


@every_client
async def test_a_closed_poll_is_not_voted_in_through_an_open_one(browser: Browser, rest: Rest, poll: Poll) -> None:
    # Given somebody in two polls, of which one is closed
    closed = await rest.open_poll()
    there = await browser.join(closed.code, "Ada")
    here = await browser.join(poll.code, "Ada")
    await rest.change(closed, "closed")
    await browser.hears("poll-state-changed", roomCode=closed.code, newState="closed")
    # When she sends the closed one's participant to the open room, and the open one's to the closed room
    one = await browser.vote(poll.code, there, 0)
    other = await browser.vote(closed.code, here, 0)
    third = await browser.vote(closed.code, there, 0)
    # Then nothing counts
    assert (one["code"], other["code"]) == ("foreign_participant", "foreign_participant")
    assert third["error"] == "Voting is not open"
    assert (await rest.read(closed))["votes"] == [0, 0, 0]


@both_transports
async def test_a_large_room_gets_few_updates_and_the_last_totals(
    new_browser: NewBrowser, host: Browser, poll: Poll
) -> None:
    # Given thirty voters who change their votes for three seconds
    voters = []
    for number in range(30):
        voter = await new_browser().connect()
        voters.append((voter, await voter.join(poll.code, f"v{number}")))
    loop = asyncio.get_running_loop()
    until = loop.time() + 3

    async def keep_voting(voter: Browser, joined: dict[str, Any]) -> None:
        option = 0
        while loop.time() < until:
            option = (option + 1) % 3
            assert (await voter.vote(poll.code, joined, option))["success"]
            await asyncio.sleep(0.02)
        assert (await voter.vote(poll.code, joined, 2))["success"]

    # When the voting is over
    await asyncio.gather(*(keep_voting(voter, joined) for voter, joined in voters))
    # Then everybody gets the final totals
    for browser in [host, *(voter for voter, _ in voters)]:
        await browser.hears("vote-update", votes=[0, 0, 30])
        # And nobody more than six updates in any second (one for the join aside)
        times = [event.at for event in browser.events if event.name == "vote-update"][1:]
        for first in times:
            assert sum(first <= other < first + 1.0 for other in times) <= 6


@every_client
async def test_two_nodes_show_the_same_totals(new_browser: NewBrowser, rest: Rest, node_urls: list[str]) -> None:
    # Given a host at one node and voters at both
    assert len(node_urls) >= 2
    poll = await rest.create()
    host = await new_browser(node_urls[0]).connect()
    await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
    voters = []
    for number in range(6):
        voter = await new_browser(node_urls[number % 2]).connect()
        voters.append((voter, await voter.join(poll.code, f"v{number}")))
    # When the host opens and they vote
    assert (await host.change(poll.code, "open"))["success"]
    for number, (voter, joined) in enumerate(voters):
        await voter.hears("poll-state-changed", newState="open")
        assert (await voter.vote(poll.code, joined, number % 3))["success"]
    # Then everybody sees the same, wherever they are
    for browser in [host, *(voter for voter, _ in voters)]:
        update = await browser.hears("vote-update", votes=[2, 2, 2])
        assert update["percentages"] == [34, 33, 33]
    answers = [await rest.read(poll, url=url) for url in node_urls]
    assert [answer["votes"] for answer in answers] == [[2, 2, 2]] * len(node_urls)
    assert len({answer["version"] for answer in answers}) == 1
    await eventually(lambda: rest_counts(rest, poll, node_urls), "six participants on both nodes")


async def rest_counts(rest: Rest, poll: Poll, node_urls: list[str]) -> bool:
    return all([(await rest.read(poll, url=url))["participantCount"] == 6 for url in node_urls])
