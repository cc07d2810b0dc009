"""Who is who: joins, resumes and nicknames, over each official client."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
import socketio

from models.wire import names
from tests.socket_tier.browsers import Browser, both_transports, every_client
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.proxy import Proxy
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually


def choice_of(redis_url: str, poll: Poll, joined: dict[str, Any]) -> str | None:
    """The option that Redis knows as a participant's last one."""
    with redis.Redis.from_url(redis_url) as client:
        stored = client.hget(names.choices_key(poll.code), UUID(joined["participantId"]).hex)
    return stored.decode().split(":")[0] if stored else None


@every_client
async def test_a_participant_joins_and_is_shown_the_present_state(browser: Browser, rest: Rest, poll: Poll) -> None:
    # When somebody joins an open poll, with the code in lower case and blanks around the name
    ack = await browser.join(poll.code.lower(), "  Ada ")
    # Then the ack tells all that the page needs
    assert (ack["reconnected"], ack["previousVote"]) == (False, None)
    assert (ack["poll"]["state"], ack["poll"]["options"]) == ("open", poll.options)
    # And this one socket is sent the state and the totals
    state = await browser.hears("poll-state-changed")
    assert (state["roomCode"], state["newState"]) == (poll.code, "open")
    update = await browser.hears("vote-update")
    assert (update["votes"], update["percentages"], update["final"]) == ([0, 0, 0], [0, 0, 0], False)


@every_client
@pytest.mark.proves("FR-004", "US1.2")
async def test_a_token_resumes_the_participant_with_the_previous_vote(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str
) -> None:
    # Given a participant who has voted at one node
    first = await new_browser(node_urls[0]).connect()
    joined = await first.join(poll.code, "Ada")
    assert (await first.vote(poll.code, joined, 2))["success"]
    await first.hears("vote-recorded")
    await first.close()
    await eventually(lambda: choice_of(redis_url, poll, joined) == "2", "the choice, written behind the ack")
    # When another browser joins at the other node with her token and name
    second = await new_browser(node_urls[-1]).connect()
    resumed = await second.join(poll.code, "ADA", joined["participantToken"])
    # Then it is she, with her vote
    assert resumed["reconnected"]
    assert resumed["participantId"] == joined["participantId"]
    assert resumed["previousVote"] == 2
    # And her next vote counts as hers
    assert (await second.vote(poll.code, resumed, 0))["success"]
    assert await second.hears("vote-update", votes=[1, 0, 0])


@every_client
@pytest.mark.proves("FR-004", "US1.2", "FR-030")
async def test_the_cookie_resumes_the_participant_after_a_reload(new_browser: NewBrowser, poll: Poll) -> None:
    # Given a participant who has voted, and reloads the page: the same browser, no token
    before = await new_browser(jar="Ada's").connect()
    joined = await before.join(poll.code, "Ada")
    assert (await before.vote(poll.code, joined, 1))["success"]
    await before.close()
    # When she joins with the same name
    after = await new_browser(jar="Ada's").connect()
    resumed = await after.join(poll.code, "ada")
    # Then she is the same one
    assert (resumed["reconnected"], resumed["previousVote"]) == (True, 1)
    assert resumed["participantId"] == joined["participantId"]


@every_client
async def test_another_name_in_the_same_browser_is_another_participant(new_browser: NewBrowser, poll: Poll) -> None:
    # Given two tabs of one browser, on one machine in a classroom
    first = await (await new_browser(jar="shared").connect()).join(poll.code, "Ada")
    second = await (await new_browser(jar="shared").connect()).join(poll.code, "Bo")
    # Then two names are two participants
    assert not second["reconnected"]
    assert first["participantId"] != second["participantId"]


@every_client
async def test_a_socket_that_joins_under_another_name_becomes_that_one(browser: Browser, poll: Poll) -> None:
    first = await browser.join(poll.code, "Ada")
    second = await browser.join(poll.code, "Bo")
    assert first["participantId"] != second["participantId"]
    assert (await browser.vote(poll.code, second, 0))["success"]


@every_client
@pytest.mark.parametrize("same", ["Zoë", "ZOË", " zoë ", "Zoe\u0308", "Ｚｏë"], ids=ascii)
async def test_a_name_is_taken_in_every_spelling_of_it(new_browser: NewBrowser, poll: Poll, same: str) -> None:
    # Given a participant, and a stranger in another browser
    await (await new_browser().connect()).join(poll.code, "Zoë")
    stranger = await new_browser().connect()
    # When the stranger wants the same name, in another case or another Unicode form
    ack = await stranger.call("join-room", {"roomCode": poll.code, "nickname": same})
    # Then it is taken
    assert (ack["success"], ack["error"]) == (False, "Nickname already taken")


async def test_of_two_who_take_a_name_at_once_one_has_it_and_the_other_is_told_so(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str]
) -> None:
    # Given people at two nodes
    one, other = [await new_browser(url).connect() for url in (node_urls[0], node_urls[-1])]
    for number in range(10):
        # When two join with the same name at once
        request = {"roomCode": poll.code, "nickname": f"v{number}"}
        acks = await asyncio.gather(one.call("join-room", request), other.call("join-room", request))
        # Then it is decided, although the first was not registered when the second asked
        (refused,) = [ack for ack in acks if not ack["success"]]
        assert refused["error"] == "Nickname already taken"


async def test_a_name_stays_taken_when_its_owner_is_away(new_browser: NewBrowser, poll: Poll) -> None:
    owner = await new_browser().connect()
    await owner.join(poll.code, "Ada")
    await owner.close()
    ack = await (await new_browser().connect()).call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
    assert ack["error"] == "Nickname already taken"


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "x" * 1999])
async def test_a_token_that_is_worth_nothing_keeps_nobody_out(browser: Browser, poll: Poll, token: str) -> None:
    assert not (await browser.join(poll.code, "Ada", token))["reconnected"]


async def test_a_token_of_another_poll_is_worth_nothing_here(browser: Browser, rest: Rest, poll: Poll) -> None:
    other = await rest.create()
    elsewhere = await browser.join(other.code, "Ada")
    here = await browser.join(poll.code, "Ada", elsewhere["participantToken"])
    assert not here["reconnected"]
    assert here["participantId"] != elsewhere["participantId"]


@every_client
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"roomCode": "ZZZZZZ", "nickname": "Ada"}, "Poll not found"),
        ({"roomCode": "ZZZ", "nickname": "Ada"}, "Invalid room code format"),
        ({"roomCode": "ABC234"}, "Missing required fields: roomCode and nickname"),
        ({"nickname": "Ada"}, "Missing required fields: roomCode and nickname"),
        ({"roomCode": "", "nickname": "Ada"}, "Missing required fields: roomCode and nickname"),
        ({"roomCode": "ABC234", "nickname": None}, "Missing required fields: roomCode and nickname"),
    ],
)
async def test_a_join_that_cant_be_says_why(browser: Browser, request_: dict[str, Any], error: str) -> None:
    ack = await browser.call("join-room", request_)
    assert (ack["success"], ack["error"]) == (False, error)


@pytest.mark.proves("FR-007", "FR-008", "US2.1", "US2.4")
@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "a&b", 'a"b', "a\x00b", "a\nb", "a\u202eb", "x" * 51, "   ", "\u200d", "a\ud800"],
)
async def test_a_name_with_what_names_dont_have_is_refused(browser: Browser, poll: Poll, name: str) -> None:
    ack = await browser.call("join-room", {"roomCode": poll.code, "nickname": name})
    assert not ack["success"]
    # Half a surrogate pair is not even JSON in UTF-8.
    assert ack["code"] == ("malformed_packet" if "\ud800" in name else "invalid_nickname")


@pytest.mark.parametrize(
    "name", ["O'Brien-Smith Jr.", "李小龙", "Zoë", "محمد", "👩🏽‍💻 dev", "x" * 50, "नमस्ते", "_a.b_"]
)
async def test_a_name_of_any_script_is_kept_as_typed(browser: Browser, poll: Poll, host: Browser, name: str) -> None:
    await browser.join(poll.code, name)
    assert await host.hears("participant-joined", nickname=name)


@pytest.mark.parametrize(
    ("kind", "transport"), [("js-polling-first", "direct"), ("js-websocket", "direct"), ("js-polling-first", "stock")]
)
@pytest.mark.proves("FR-004", "FR-040", "US1.3")
async def test_after_a_cut_the_id_stays_the_same_and_the_page_goes_on(
    new_browser: NewBrowser, poll: Poll, host: Browser
) -> None:
    # Given a voter of the unchanged MVP page, which keeps its participantId
    voter = await new_browser().connect()
    joined = await voter.join(poll.code, "Ada")
    assert (await voter.vote(poll.code, joined, 0))["success"]
    # When the connection is lost, she votes meanwhile, and the client comes back by itself
    await voter.cut()
    late = await voter.vote(poll.code, joined, 1)
    # Then the buffered vote, which arrives before any join, counts as hers by her cookie
    assert late["success"], late
    assert voter.connections == 2
    await host.hears("vote-update", votes=[0, 1, 0])
    again = await voter.join(poll.code, "Ada")
    assert (again["participantId"], again["previousVote"]) == (joined["participantId"], 1)


@every_client
@pytest.mark.proves("FR-004", "US1.3")
async def test_after_a_cut_the_hosts_page_hears_its_room_without_joining_again(
    new_browser: NewBrowser, poll: Poll
) -> None:
    # Given a host who joined with the token
    host = await new_browser().connect()
    await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
    # When the connection is lost and comes back, and the page repeats nothing
    await host.cut()
    await eventually(lambda: host.connections == 2, "a reconnect")
    # Then it hears who joins, and may still change the state
    await (await new_browser().connect()).join(poll.code, "Bo")
    await host.hears("participant-joined", nickname="Bo")
    assert (await host.change(poll.code, "closed"))["success"]


@both_transports
@pytest.mark.proves("FR-004", "FR-030", "US1.3", "US5.5")
async def test_a_token_in_the_handshake_resumes_within_one_round_trip(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str
) -> None:
    # Given a participant who has voted at one node
    first = await new_browser(node_urls[0]).connect()
    joined = await first.join(poll.code, "Ada")
    assert (await first.vote(poll.code, joined, 2))["success"]
    await eventually(lambda: choice_of(redis_url, poll, joined) == "2", "the choice, written behind the ack")
    # When a client connects to the other node with the token in its handshake, and sends nothing else
    client = socketio.AsyncClient(reconnection=False)
    resumed: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    client.on("session-resumed", lambda payload: resumed.done() or resumed.set_result(payload))
    await client.connect(
        node_urls[-1],
        transports=["websocket"],
        auth={"roomCode": poll.code, "participantToken": joined["participantToken"]},
    )
    # Then it is told who it is and what it voted, and may vote at once
    told = await asyncio.wait_for(resumed, 15)
    assert (told["participantId"], told["previousVote"], told["reconnected"]) == (joined["participantId"], 2, True)
    ack = await client.call(
        "submit-vote", {"roomCode": poll.code, "participantId": told["participantId"], "optionIndex": 1}
    )
    assert ack["success"]
    assert await first.hears("vote-update", votes=[0, 1, 0])
    await client.disconnect()


@pytest.mark.parametrize("auth", [{"roomCode": 5, "participantToken": []}, {"participantToken": "x"}, {"more": "x"}])
async def test_a_handshake_with_nonsense_connects_as_nobody(browser: Browser, poll: Poll, auth: dict[str, Any]) -> None:
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(browser.url, transports=["websocket"], auth={"roomCode": poll.code, **auth})
    ack = await client.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
    assert (ack["success"], ack["reconnected"]) == (True, False)
    await client.disconnect()


@pytest.fixture
async def cut_off(amqp_url: str, tmp_path: Path) -> AsyncIterator[tuple[str, Proxy]]:
    """The address of a node, and what stands between it and RabbitMQ."""
    proxy = Proxy(amqp_url)
    await proxy.start()
    log = tmp_path / "cut-off-node.log"
    node = await asyncio.to_thread(ExtraNode, "cut-off", log, BROKER__URL=proxy.url)
    yield node.url, proxy
    await asyncio.to_thread(node.stop)
    await proxy.stop()


async def test_who_was_refused_for_want_of_the_broker_leaves_no_name_behind(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str, cut_off: tuple[str, Proxy]
) -> None:
    # Given a node that has lost RabbitMQ
    url, proxy = cut_off
    ada = await new_browser(url).connect()
    await ada.call("join", {"roomCode": poll.code, "viewer": True})
    proxy.go_away()
    await eventually(lambda: proxy.refused, "the node to notice")
    # When somebody is refused there
    ack = await ada.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
    assert (ack["success"], ack["code"]) == (False, "broker_unavailable") and ack["retryAfter"] > 0
    # Then the name is free, and not for want of patience: nobody has asked for it, which would end its reservation
    with redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: not client.hexists(names.nicknames_key(poll.code), "ada"), "the release")
    assert not (await (await new_browser(node_urls[0]).connect()).join(poll.code, "Ada"))["reconnected"]
    proxy.come_back()


async def test_who_was_registered_without_an_answer_is_the_same_one_in_another_tab(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str, cut_off: tuple[str, Proxy]
) -> None:
    # Given two tabs of a browser, at two nodes
    url, proxy = cut_off
    tab = await new_browser(url, jar="Ada's").connect()
    await tab.call("join", {"roomCode": poll.code, "viewer": True})
    other = await new_browser(node_urls[0], jar="Ada's").connect()
    # When one is told to come again since RabbitMQ's answer was lost, and is registered all the same
    proxy.hold_answers()
    ack = await tab.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
    assert (ack["success"], ack["code"]) == (False, "broker_unavailable") and ack["retryAfter"] > 0
    with redis.Redis.from_url(redis_url) as client:
        await eventually(lambda: not client.hkeys(names.reserved_key(poll.code))[1:], "the registration")
    # Then in the other it is she, and the name is nobody else's
    assert (await other.join(poll.code, "Ada"))["reconnected"]
    stranger = await new_browser(node_urls[-1]).connect()
    taken = await stranger.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
    assert taken["error"] == "Nickname already taken"
    proxy.let_answers_through()
