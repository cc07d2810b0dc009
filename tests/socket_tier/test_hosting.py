"""Opening and closing: who may, who is told, and what closed means; over each official client."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import redis

from models.wire import names
from tests.socket_tier.browsers import Browser, every_client
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

StoredVotes = Callable[[str], dict[str, int]]


@every_client
@pytest.mark.proves("FR-013")
async def test_the_first_who_joins_a_fresh_poll_by_bare_code_is_its_host(new_browser: NewBrowser, rest: Rest) -> None:
    # Given a fresh poll, and the MVP's host page, which sends the bare code
    poll = await rest.create()
    host = await new_browser().connect()
    assert (await host.call("join", poll.code.lower()))["role"] == "host"
    # When another page does the same
    other = await new_browser().connect()
    ack = await other.call("join", poll.code)
    assert ack.get("role") == "viewer", ack
    # Then the first may open the poll, the other may not
    refused = await other.change(poll.code, "open")
    assert (refused["success"], refused["error"]) == (False, "Only host can change poll state")
    assert (await host.change(poll.code, "open"))["success"]
    # And both are told, the one who looks on too
    for browser in (host, other):
        changed = await browser.hears("poll-state-changed", newState="open", previousState="waiting")
        assert (changed["state"], changed["changedBy"], changed["roomCode"]) == ("open", "host", poll.code)


@pytest.mark.proves("FR-013")
async def test_nobody_claims_a_poll_from_another_address_than_its_creators(
    new_browser: NewBrowser, rest: Rest, node_urls: list[str]
) -> None:
    poll = await rest.create()
    stranger = await new_browser(node_urls[0], headers={"X-Forwarded-For": "203.0.113.77"}).connect()
    assert (await stranger.call("join", poll.code))["role"] == "viewer"
    creator = await new_browser().connect()
    assert (await creator.call("join", poll.code))["role"] == "host"


@pytest.mark.proves("FR-013")
async def test_nobody_claims_a_poll_that_is_no_longer_fresh(
    new_browser: NewBrowser, rest: Rest, database_url: str, redis_url: str
) -> None:
    # Given a poll that was made an hour ago, and that no node knows
    poll = await rest.create()
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        aged = "UPDATE polls SET created_at = created_at - interval '1 hour' WHERE room_code = %s"
        cursor.execute(aged, (poll.code,))
    with redis.Redis.from_url(redis_url) as cache:
        cache.delete(names.room_key(poll.code))
    # When somebody comes from the creator's address, by bare code
    late = await new_browser().connect()
    # Then they only look on
    assert (await late.call("join", poll.code))["role"] == "viewer"


@every_client
async def test_the_host_is_known_by_the_cookie_after_a_reload(new_browser: NewBrowser, rest: Rest) -> None:
    poll = await rest.create()
    before = await new_browser(jar="host's").connect()
    assert (await before.call("join", poll.code))["role"] == "host"
    await before.close()
    after = await new_browser(jar="host's").connect()
    assert (await after.call("join", poll.code))["role"] == "host"
    assert (await after.change(poll.code, "open"))["success"]


@every_client
@pytest.mark.proves("FR-013")
async def test_the_host_token_opens_closes_and_reopens(new_browser: NewBrowser, rest: Rest) -> None:
    # Given a host with the token and a participant at the same poll
    poll = await rest.create()
    host, voter = [await new_browser().connect() for _ in range(2)]
    ack = await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
    assert (ack["role"], ack["poll"]["state"]) == ("host", "waiting")
    await voter.join(poll.code, "Ada")
    # When the host goes through all states
    previous = "waiting"
    for state in ("open", "closed", "open", "closed"):
        ack = await host.change(poll.code, state)
        # Then the ack tells both, and everybody is told once per change
        assert (ack["success"], ack["state"], ack["previousState"]) == (True, state, previous)
        for browser in (host, voter):
            await browser.hears("poll-state-changed", newState=state, previousState=previous)
        previous = state
    for browser in (host, voter):
        changes = [
            (event["previousState"], event["newState"])
            for event in browser.heard("poll-state-changed")
            if event["previousState"] != event["newState"]
        ]
        assert changes == [("waiting", "open"), ("open", "closed"), ("closed", "open"), ("open", "closed")]


@every_client
async def test_a_repeated_change_is_accepted_and_announced_once(host: Browser, poll: Poll) -> None:
    for _ in range(3):
        ack = await host.change(poll.code, "closed")
        assert (ack["success"], ack["state"]) == (True, "closed")
    await host.hears("poll-state-changed", newState="closed", previousState="open")
    await asyncio.sleep(0.5)
    assert len(host.heard("poll-state-changed", newState="closed", previousState="open")) == 1


async def test_a_token_in_the_request_is_enough_for_a_change(browser: Browser, rest: Rest) -> None:
    poll = await rest.create()
    assert (await browser.change(poll.code, "open", hostToken=poll.host_token))["success"]
    assert (await rest.read(poll))["state"] == "open"


@pytest.mark.proves("FR-013", "US2.3")
async def test_a_wrong_token_is_refused_and_makes_no_host(browser: Browser, rest: Rest, poll: Poll) -> None:
    other = await rest.create()
    # Of the last character of a signature some bits mean nothing; the fifth from the end is all signature.
    tampered = poll.host_token[:-5] + ("A" if poll.host_token[-5] != "A" else "B") + poll.host_token[-4:]
    for token in ("nonsense", other.host_token, tampered):
        ack = await browser.call("join", {"roomCode": poll.code, "hostToken": token})
        assert (ack["success"], ack["error"]) == (False, "Invalid host token")
        ack = await browser.change(poll.code, "closed", hostToken=token)
        assert (ack["success"], ack["error"]) == (False, "Only host can change poll state")
    assert (await rest.read(poll))["state"] == "open"


async def test_a_participants_token_makes_no_host(browser: Browser, poll: Poll) -> None:
    joined = await browser.join(poll.code, "Ada")
    ack = await browser.change(poll.code, "closed", hostToken=joined["participantToken"])
    assert ack["error"] == "Only host can change poll state"


@every_client
@pytest.mark.parametrize(
    ("event", "payload", "error"),
    [
        ("join", "ZZZZZZ", "Poll not found"),
        ("join", {"roomCode": "ZZZZZZ"}, "Poll not found"),
        ("join", "nonsense", "Invalid room code format"),
        ("change-poll-state", {"roomCode": "ZZZZZZ", "newState": "open"}, "Poll not found"),
        ("change-poll-state", {"roomCode": "ZZZZZZ"}, "Missing required fields: roomCode and newState"),
        ("change-poll-state", {"newState": "open"}, "Missing required fields: roomCode and newState"),
        (
            "change-poll-state",
            {"roomCode": "ZZZZZZ", "newState": "ajar"},
            "Invalid state: expected waiting, open or closed",
        ),
        ("no-such-event", {}, "Unknown event"),
    ],
)
async def test_a_host_request_that_cant_be_says_why(browser: Browser, event: str, payload: Any, error: str) -> None:
    ack = await browser.call(event, payload)
    assert (ack["success"], ack["error"]) == (False, error)


@every_client
@pytest.mark.proves("FR-003", "US1.4")
async def test_after_a_close_there_is_one_final_version_and_it_equals_the_votes_table(
    new_browser: NewBrowser, host: Browser, poll: Poll, rest: Rest, stored_votes: StoredVotes
) -> None:
    # Given voters, some of whose votes are still on their way when the host closes
    voters = []
    for number in range(8):
        voter = await new_browser().connect()
        voters.append((voter, await voter.join(poll.code, f"v{number}")))
    voting = [
        asyncio.create_task(voter.vote(poll.code, joined, number % 3)) for number, (voter, joined) in enumerate(voters)
    ]
    await asyncio.sleep(0)
    # When the host closes in the middle of it
    assert (await host.change(poll.code, "closed"))["success"]
    acks = await asyncio.gather(*voting)
    # Then everybody gets the final totals
    finals = [await browser.hears("vote-update", final=True) for browser in (host, *(voter for voter, _ in voters))]
    assert len({(final["version"], *final["votes"]) for final in finals}) == 1
    # And they are the votes table: a vote in flight was refused, counted, or (received at the other node after the
    # close, and before that node had heard of it) rejected afterwards
    counted = {}
    for number, ((voter, joined), ack) in enumerate(zip(voters, acks, strict=True)):
        if not ack["success"]:
            assert ack["error"] == "Voting is not open"
            continue
        await eventually(lambda v=voter: v.heard("vote-recorded") or v.heard("vote-rejected"), "what became of a vote")
        assert len(voter.heard("vote-recorded")) + len(voter.heard("vote-rejected")) == 1
        if voter.heard("vote-recorded"):
            counted[joined["participantId"]] = number % 3
        else:
            assert voter.heard("vote-rejected")[0]["error"] == "Voting is not open"
    stored = stored_votes(poll.code)
    assert stored == counted
    assert finals[0]["votes"] == [list(stored.values()).count(option) for option in range(3)]
    # And there is one final version, whoever asks, and late joiners are shown it
    await asyncio.sleep(1)
    assert len({update["version"] for update in host.heard("vote-update", final=True)}) == 1
    late = await new_browser().connect()
    ack = await late.join(poll.code, "late")
    assert (ack["poll"]["version"], ack["poll"]["final"]) == (finals[0]["version"], True)
    assert (await rest.read(poll))["final"]


@every_client
async def test_a_vote_after_the_close_is_refused_also_when_the_poll_opens_again(
    new_browser: NewBrowser, host: Browser, poll: Poll, node_urls: list[str], stored_votes: StoredVotes
) -> None:
    # Given a voter at each node
    voters = []
    for number, url in enumerate(node_urls):
        voter = await new_browser(url).connect()
        voters.append((voter, await voter.join(poll.code, f"v{number}")))
    # When the host has closed
    assert (await host.change(poll.code, "closed"))["success"]
    for voter, joined in voters:
        await voter.hears("poll-state-changed", newState="closed")
        assert (await voter.vote(poll.code, joined, 0))["error"] == "Voting is not open"
    # And opens again
    assert (await host.change(poll.code, "open"))["success"]
    for voter, joined in voters:
        changed = await voter.hears("poll-state-changed", newState="open", previousState="closed")
        assert changed["reopenedCount"] == 1
        # Then votes are taken, and those from in between never counted
        assert (await voter.vote(poll.code, joined, 1))["success"]
    await host.hears("vote-update", votes=[0, len(voters), 0])
    assert set(stored_votes(poll.code).values()) == {1}


@pytest.mark.proves("FR-003")
async def test_the_final_totals_of_a_poll_can_be_read_for_as_long_as_it_is_kept(
    host: Browser, poll: Poll, rest: Rest, node_urls: list[str]
) -> None:
    await host.change(poll.code, "closed")

    async def final() -> bool:
        return all([(await rest.read(poll, url=url))["final"] for url in node_urls])

    await eventually(final, "final on all nodes")
