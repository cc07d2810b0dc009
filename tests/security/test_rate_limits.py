"""Spam from a session, an address and many nodes at once; and everybody else, who must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
import redis.asyncio

from tests.security.conftest import Audited, GuardedNode
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Answer, Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
NEW_POLL = {"question": "Tea or coffee?", "options": ["Tea", "Coffee"]}


async def create(rest: Rest, node: GuardedNode, address: str) -> Answer:
    return await rest.request("POST", "/api/polls", url=node.url, json=NEW_POLL, headers={FORWARDED: address})


async def refused_after(rest: Rest, node: GuardedNode, path: str, address: str, most: int) -> tuple[int, Answer]:
    """How many requests were answered before the first 429, and that one."""
    for answered in range(most):
        answer = await rest.get(path, url=node.url, headers={FORWARDED: address})
        if answer.status == 429:
            return answered, answer
    raise AssertionError(f"{most} requests to {path} and no refusal")


@pytest.mark.proves("FR-009", "FR-012", "SC-011", "US2.2")
@pytest.mark.parametrize("way", ["python", "js-polling-first"])
async def test_a_spammer_is_refused_from_the_eleventh_vote_and_its_neighbours_are_not(
    new_browser: NewBrowser,
    rest: Rest,
    guarded_nodes: list[GuardedNode],
    address: str,
    way: str,
    audited: Audited,
) -> None:
    # Given two voters behind one address
    node = guarded_nodes[0]
    poll = await rest.open_poll()
    browsers = [new_browser(url=node.url, headers={FORWARDED: address}, kind=way) for _ in range(2)]
    spammer, neighbour = [await browser.connect() for browser in browsers]
    joined = [await browser.join(poll.code, f"Voter {n}") for n, browser in enumerate((spammer, neighbour))]
    # When one votes fifteen times in a moment
    acks = [await spammer.vote(poll.code, joined[0], n % 3) for n in range(15)]
    # Then ten votes are taken and the rest refused, with the time to wait
    assert [ack["success"] for ack in acks] == [True] * 10 + [False] * 5
    for refusal in acks[10:]:
        assert refusal["code"] == "rate_limited"
        assert 0 < refusal["retryAfter"] <= 10
    # And the neighbour is heard
    assert (await neighbour.vote(poll.code, joined[1], 1))["success"]
    # And it is on record
    row = await audited("rate_limited", address=address, action="votes-per-session")
    assert row["outcome"] == "refused"


@pytest.mark.proves("FR-009", "FR-012", "E6")
async def test_an_address_that_creates_polls_without_end_gets_429_and_when_to_come_back(
    rest: Rest,
    guarded_nodes: list[GuardedNode],
    address: str,
    new_address: Callable[[], str],
    audited: Audited,
) -> None:
    node = guarded_nodes[0]
    answers = await asyncio.gather(*(create(rest, node, address) for _ in range(24)))
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {201, 429}
    assert len(refused) >= 3
    answer = refused[0]
    assert answer.body["code"] == "rate_limited"
    assert answer.headers["ratelimit-policy"] == '"polls-per-address";q=20;w=40'
    wait_s = int(answer.headers["retry-after"])
    assert answer.headers["ratelimit"] == f'"polls-per-address";r=0;t={wait_s}'
    assert 1 <= wait_s <= 40
    assert answer.body["retryAfter"] <= wait_s
    await audited("rate_limited", address=address, action="polls-per-address")
    # And its neighbours in the next street may
    assert (await create(rest, node, new_address())).status == 201


@pytest.mark.proves("FR-009", "FR-030")
async def test_going_to_another_node_doesnt_give_a_second_allowance(
    rest: Rest, guarded_nodes: list[GuardedNode], address: str
) -> None:
    # Given an address that has used up its polls at one node
    one, other = guarded_nodes
    while (await create(rest, one, address)).status == 201:
        pass
    # When it goes on at the other
    granted = 0
    while (await create(rest, other, address)).status == 201:
        granted += 1
        await asyncio.sleep(0.3)
    # Then it is refused there long before it has had the same again
    assert granted < 10


@pytest.mark.proves("FR-009")
async def test_an_address_that_is_only_claimed_doesnt_count(
    rest: Rest, strict_node: GuardedNode, new_address: Callable[[], str]
) -> None:
    # Given somebody behind the proxy who claims another address with each request
    own, path = new_address(), "/api/polls/ZZZ"
    statuses = []
    for _ in range(12):
        forwarded = f"{new_address()}, {own}"
        statuses.append((await rest.get(path, url=strict_node.url, headers={FORWARDED: forwarded})).status)
    # Then the one that the proxy saw is limited
    assert statuses == [400] * 10 + [429] * 2

    # And given somebody who comes past the proxy, and claims to be it
    direct = aiohttp.TCPConnector(local_addr=("127.0.0.9", 0))
    async with aiohttp.ClientSession(connector=direct, cookie_jar=aiohttp.DummyCookieJar()) as session:
        outsider = Rest(session, strict_node.url)
        statuses = [(await outsider.get(path, headers={FORWARDED: new_address()})).status for _ in range(12)]
    assert statuses == [400] * 10 + [429] * 2


@pytest.mark.proves("FR-009")
async def test_reading_one_room_is_limited_whoever_reads_it(
    rest: Rest, strict_node: GuardedNode, new_address: Callable[[], str]
) -> None:
    polls = [await rest.open_poll() for _ in range(2)]
    statuses = []
    for _ in range(12):
        answer = await rest.get(f"/api/polls/{polls[0].code}", url=strict_node.url, headers={FORWARDED: new_address()})
        statuses.append(answer.status)
    assert statuses == [200] * 10 + [429] * 2
    other = await rest.get(f"/api/polls/{polls[1].code}", url=strict_node.url, headers={FORWARDED: new_address()})
    assert other.status == 200


@pytest.mark.proves("FR-009", "FR-012")
async def test_new_connections_of_an_address_are_limited_before_they_cost_a_session(
    strict_node: GuardedNode, address: str, new_address: Callable[[], str], audited: Audited
) -> None:
    handshake = f"{strict_node.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def connect(origin: str) -> tuple[int, str | None]:
            async with session.get(handshake, headers={FORWARDED: origin}) as answer:
                return answer.status, answer.headers.get("Retry-After")

        answers = [await connect(address) for _ in range(12)]
        assert [status for status, _ in answers] == [200] * 10 + [429] * 2
        assert answers[10][1] is not None and 0 < int(answers[10][1]) <= 100
        assert (await connect(new_address()))[0] == 200
    await audited("rate_limited", address=address, action="connections-per-address")


@pytest.mark.proves("FR-009")
async def test_a_rush_of_new_participants_is_limited_by_room_and_keeps_nobody_out_who_was_in(
    new_browser: NewBrowser, rest: Rest, strict_node: GuardedNode, new_address: Callable[[], str]
) -> None:
    # Given somebody who has joined
    poll = await rest.open_poll()
    honest = new_browser(url=strict_node.url, headers={FORWARDED: new_address()})
    await honest.connect()
    token = (await honest.join(poll.code, "Honest"))["participantToken"]
    # When a crowd of others comes from everywhere
    crowd = [new_browser(url=strict_node.url, headers={FORWARDED: new_address()}) for _ in range(11)]
    acks = []
    for number, browser in enumerate(crowd):
        await browser.connect()
        acks.append(await browser.call("join-room", {"roomCode": poll.code, "nickname": f"Crowd {number}"}))
    # Then only as many get in as the room takes
    assert [ack["success"] for ack in acks] == [True] * 9 + [False] * 2
    assert acks[-1]["code"] == "rate_limited" and acks[-1]["retryAfter"] > 0
    # And who was in can come back
    again = new_browser(url=strict_node.url, headers={FORWARDED: new_address()})
    await again.connect()
    assert (await again.join(poll.code, "Honest", token))["reconnected"]


@pytest.mark.proves("FR-009")
@pytest.mark.parametrize("shared", ["room", "address"])
async def test_votes_of_a_room_and_of_an_address_are_limited_over_all_their_sessions(
    new_browser: NewBrowser, rest: Rest, strict_node: GuardedNode, new_address: Callable[[], str], shared: str
) -> None:
    # Given two voters in one room, or behind one address
    polls = [await rest.open_poll()] * 2 if shared == "room" else [await rest.open_poll() for _ in range(2)]
    addresses = [new_address(), new_address()] if shared == "room" else [new_address()] * 2
    voters = []
    for number, (poll, address) in enumerate(zip(polls, addresses, strict=True)):
        browser = new_browser(url=strict_node.url, headers={FORWARDED: address})
        await browser.connect()
        voters.append((browser, poll, await browser.join(poll.code, f"Voter {number}")))
    # When each votes six times
    acks = []
    for _ in range(6):
        for browser, poll, joined in voters:
            acks.append(await browser.vote(poll.code, joined, 0))
    # Then ten votes are taken, none of them by more than a session may
    assert [ack["success"] for ack in acks] == [True] * 10 + [False] * 2
    assert {ack["code"] for ack in acks[10:]} == {"rate_limited"}


@pytest.mark.proves("FR-009", "FR-012")
async def test_a_session_that_floods_with_events_is_refused(
    strict_node: GuardedNode, address: str, audited: Audited
) -> None:
    async with raw_socket(strict_node.url, headers={FORWARDED: address}) as socket:
        codes = [(await socket.refusal("submit-vote", "null"))["code"] for _ in range(35)]
    assert codes == ["invalid_payload"] * 30 + ["rate_limited"] * 5
    await audited("rate_limited", address=address, action="events-per-session")


@pytest.mark.proves("FR-009", "FR-012")
async def test_a_session_that_floods_with_what_is_no_event_is_refused(
    strict_node: GuardedNode, address: str, audited: Audited
) -> None:
    async with raw_socket(strict_node.url, headers={FORWARDED: address}) as socket:
        codes = [(await socket.refusal("submit-vote", "{not JSON"))["code"] for _ in range(35)]
    assert codes == ["malformed_packet"] * 30 + ["rate_limited"] * 5
    await audited("rate_limited", address=address, action="events-per-session")


@pytest.mark.proves("FR-009")
async def test_what_is_kept_in_redis_ends_by_itself(
    rest: Rest, guarded_nodes: list[GuardedNode], address: str, redis_url: str
) -> None:
    await create(rest, guarded_nodes[0], address)
    async with redis.asyncio.from_url(redis_url) as client:

        async def keys() -> list[bytes]:
            return [key async for key in client.scan_iter(f"*{address}*")]

        for key in await eventually(keys, "counted in Redis"):
            window_s = 86_430 if b"a-day" in key else 40
            assert 0 < await client.ttl(key) <= 2 * window_s
