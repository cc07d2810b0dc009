"""A node whose link to the broker is half dead: it notices, decides nothing meanwhile, and everybody is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from models.wire import names
from tests.socket_tier.browsers import Ack, Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.half_dead_proxy import HalfDeadProxy
from tests.socket_tier.proxy import Proxy
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

NOTICES, PUBLISHER = "votemill notices", "votemill publisher"
# Far below the half minute after which the broker notices by itself; the node takes about 2.5 s.
_DEAF_S = 12.0


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[HalfDeadProxy]:
    proxy = HalfDeadProxy(amqp_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Proxy]:
    """Before Redis, for one node."""
    proxy = Proxy(redis_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def node(proxy: HalfDeadProxy, cache: Proxy, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a node that reaches the broker and Redis through the proxies."""
    log = tmp_path / "half-dead-node.log"
    node = await asyncio.to_thread(ExtraNode, "half-dead", log, BROKER__URL=proxy.url, REDIS__URL=cache.url)
    yield node.url
    await asyncio.to_thread(node.stop)


async def broker_status(rest: Rest, node: str) -> str:
    health = await rest.get("/api/health", url=node)
    broker = health.body["dependencies"]["broker"]
    assert (health.body["status"] == "healthy") <= (broker["status"] == "connected")
    return str(broker["status"])


class Voter:
    """Votes all the time, alternating, and keeps what becomes of each vote by its command id."""

    def __init__(self, browser: Browser, code: str, joined: Ack) -> None:
        self.acked: list[str] = []
        self.refused: list[tuple[float, Ack]] = []
        self._browser = browser
        self._code = code
        self._joined = joined
        self._voting = asyncio.create_task(self._vote())

    async def stop(self) -> None:
        self._voting.cancel()
        await asyncio.gather(self._voting, return_exceptions=True)

    def unanswered(self) -> list[str]:
        """Acked votes of which nobody has said whether they count."""
        told = {
            payload.get("commandId")
            for name in ("vote-recorded", "vote-rejected")
            for payload in self._browser.heard(name)
        }
        return [command for command in self.acked if command not in told]

    async def _vote(self) -> None:
        number = 0
        while True:
            number += 1
            command = f"vote-{number}"
            ack = await self._browser.vote(self._code, self._joined, number % 3, commandId=command)
            if ack["success"]:
                self.acked.append(command)
            else:
                self.refused.append((time.monotonic(), ack))
            await asyncio.sleep(0.05)


Break = Callable[[HalfDeadProxy], None]
ways = pytest.mark.parametrize(
    "break_link",
    [
        pytest.param(lambda proxy: proxy.cut_near_side(NOTICES), id="the node's end dies alone"),
        pytest.param(lambda proxy: proxy.deafen(NOTICES), id="nothing comes any more"),
        pytest.param(lambda proxy: proxy.mute(NOTICES), id="nothing is sent any more"),
    ],
)


@pytest.mark.proves("FR-035", "FR-037")
async def test_every_vote_that_a_deaf_node_has_acked_is_counted_or_its_voter_is_told(
    new_browser: NewBrowser,
    rest: Rest,
    proxy: HalfDeadProxy,
    node: str,
    stored_votes: Callable[[str], dict[str, int]],
    record_property: Callable[[str, object], None],
) -> None:
    # Given somebody who votes all the time at a node that hears nothing any more
    poll = await rest.open_poll()
    browser = await new_browser(node).connect()
    joined = await browser.join(poll.code, "Ada")
    voter = Voter(browser, poll.code, joined)
    await eventually(lambda: len(voter.acked) > 5, "votes")
    broken_at = time.monotonic()
    proxy.deafen(NOTICES)
    # When the host closes the poll at another node
    assert (await rest.change(poll, "closed")).body["state"] == "closed"
    # Then this one soon takes no votes, and says when to come again, and that it isn't well
    await eventually(lambda: voter.refused, "a refused vote")
    await eventually(lambda: any("retryAfter" in ack for _, ack in voter.refused), "a vote to be sent again")
    first_refused_s = voter.refused[0][0] - broken_at
    # And then it hears again, knows of the close, and tells everybody whose vote it should not have taken
    await browser.hears("poll-state-changed", newState="closed")
    closed_s = time.monotonic() - broken_at
    assert closed_s < _DEAF_S
    await eventually(lambda: voter.refused[-1][1]["error"] == "Voting is not open", "the words for a closed poll")
    await voter.stop()
    await eventually(lambda: not voter.unanswered(), f"news of {len(voter.acked)} votes")
    assert browser.heard("vote-rejected"), "the node noticed before anybody voted too late"
    # And whoever comes back is shown the vote that counts
    again = await new_browser(node).connect()
    resumed = await again.join(poll.code, "Ada", joined["participantToken"])
    assert {joined["participantId"]: resumed["previousVote"]} == stored_votes(poll.code)
    record_property("first_refused_s", round(first_refused_s, 1))
    print(f"deaf: votes refused after {first_refused_s:.1f} s, heard of the close after {closed_s:.1f} s")


@ways
@pytest.mark.proves("FR-035", "FR-037")
async def test_a_node_whose_connection_is_half_dead_hears_again_long_before_the_broker_notices(
    new_browser: NewBrowser, rest: Rest, proxy: HalfDeadProxy, node: str, break_link: Break
) -> None:
    poll = await rest.open_poll()
    browser = await new_browser(node).connect()
    joined = await browser.join(poll.code, "Ada")
    await browser.vote(poll.code, joined, 0, commandId="before")
    await browser.hears("vote-recorded", commandId="before")
    broken_at = time.monotonic()
    break_link(proxy)
    # What is asked of the workers is answered, and what they tell all nodes is heard
    await rest.change(poll, "closed")
    await browser.hears("poll-state-changed", newState="closed")
    heard_s = time.monotonic() - broken_at
    assert heard_s < _DEAF_S
    print(f"deaf: heard again after {heard_s:.1f} s")
    await eventually(lambda: is_status(rest, node, "connected"), "a healthy link")
    assert (await rest.get("/api/polls/ZZZZ22", url=node)).status == 404
    await rest.change(poll, "open", url=node)
    await browser.hears("poll-state-changed", newState="open", previousState="closed")
    assert (await browser.vote(poll.code, joined, 1, commandId="after"))["success"]
    await browser.hears("vote-recorded", commandId="after")


@pytest.mark.proves("FR-035", "FR-037")
async def test_what_was_missed_is_read_from_the_database_while_redis_is_away(
    new_browser: NewBrowser, rest: Rest, proxy: HalfDeadProxy, cache: Proxy, node: str
) -> None:
    # Given two polls with a voter each
    closing, staying = await rest.open_poll(), await rest.open_poll()
    voters = [await new_browser(node).connect() for _ in range(2)]
    joined = [await voter.join(poll.code, "Ada") for voter, poll in zip(voters, (closing, staying), strict=True)]
    # When Redis is away for their node, which is deaf as one of them is closed
    cache.go_away()
    proxy.cut_near_side(NOTICES)
    await rest.change(closing, "closed")
    # Then it knows of the close, and takes votes in the other
    await voters[0].hears("poll-state-changed", newState="closed")
    await eventually(lambda: is_taken(voters[1], staying, joined[1]), "a vote")
    assert (await voters[0].vote(closing.code, joined[0], 1))["error"] == "Voting is not open"
    cache.come_back()


async def is_taken(voter: Browser, poll: Poll, joined: Ack) -> bool:
    ack = await voter.vote(poll.code, joined, 1)
    assert ack["success"] or ack["retryAfter"] > 0
    return bool(ack["success"])


async def is_status(rest: Rest, node: str, status: str) -> bool:
    return await broker_status(rest, node) == status


@pytest.mark.proves("FR-037")
async def test_health_tells_that_a_node_hears_nothing(rest: Rest, proxy: HalfDeadProxy, node: str) -> None:
    assert await broker_status(rest, node) == "connected"
    proxy.deafen(NOTICES)
    await eventually(lambda: is_status(rest, node, "degraded"), "a deaf node's health")
    await eventually(lambda: is_status(rest, node, "connected"), "a healthy link")


@pytest.mark.proves("FR-037")
async def test_a_node_to_whom_nobody_listens_notices_without_a_vote(
    rest: Rest, proxy: HalfDeadProxy, node: str
) -> None:
    assert await broker_status(rest, node) == "connected"
    # Given a publisher whose confirms, or whose messages, are lost
    for break_link in (proxy.deafen, proxy.mute):
        break_link(PUBLISHER)
        await eventually(lambda: is_status(rest, node, "disconnected"), "a link that nobody answers")
        await eventually(lambda: is_status(rest, node, "connected"), "a new one")


@pytest.mark.proves("FR-037")
@pytest.mark.parametrize(
    ("link", "word"),
    [(NOTICES, names.NODES_EXCHANGE), (PUBLISHER, names.COMMANDS_EXCHANGE)],
    ids=["notices", "publisher"],
)
async def test_a_connection_that_is_half_dead_from_the_beginning_is_given_up_too(
    rest: Rest, proxy: HalfDeadProxy, node: str, link: str, word: str
) -> None:
    assert await broker_status(rest, node) == "connected"
    proxy.deafen_next(word)
    proxy.cut_near_side(link)
    broken_at = time.monotonic()
    await eventually(lambda: proxy.deafened, "a new connection")
    await eventually(lambda: is_status(rest, node, "connected"), "another one")
    assert time.monotonic() - broken_at < _DEAF_S


async def test_totals_of_a_state_that_a_node_has_not_heard_of_are_hidden_as_that_state_asks(
    new_browser: NewBrowser, rest: Rest, proxy: HalfDeadProxy, node: str, node_urls: list[str]
) -> None:
    # Given a closed poll that shows its totals after the close, a watcher at each node, and votes
    poll = await rest.open_poll(results="after-close")
    voters = [await new_browser(node_urls[0]).connect() for _ in range(2)]
    joined = [await voter.join(poll.code, f"v{number}") for number, voter in enumerate(voters)]
    await voters[0].vote(poll.code, joined[0], 0)
    watcher = await new_browser(node).connect()
    await watcher.call("join", {"roomCode": poll.code, "viewer": True})
    await rest.change(poll, "closed")
    await watcher.hears("vote-update", final=True, votes=[1, 0, 0])
    # When it is opened again, of which the watcher's node does not hear, and voted in
    proxy.deafen(NOTICES)
    await rest.change(poll, "open")
    assert (await voters[1].vote(poll.code, joined[1], 1))["success"]
    # Then the watcher is shown how many votes there are, and not which
    await watcher.hears("vote-update", voteCount=2, hidden=True, votes=[0, 0, 0])
    late = await new_browser(node).connect()
    shown = await late.call("join", {"roomCode": poll.code, "viewer": True})
    assert (shown["poll"]["votes"], shown["poll"]["hidden"]) == ([0, 0, 0], True)
    assert not watcher.heard("vote-update", votes=[1, 1, 0])
    # And what processes tell each other about totals is nobody else's
    assert not any(names.TOTALS_STATE in update for update in watcher.heard("vote-update"))


async def test_somebody_who_moves_to_a_node_with_late_totals_is_never_shown_older_ones(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], slow_screens: str
) -> None:
    # Given a voter at each of two nodes, of which one hears of totals late
    staying = await new_browser(slow_screens).connect()
    await staying.join(poll.code, "Grace")
    moving = await new_browser(node_urls[0]).connect()
    joined = await moving.join(poll.code, "Ada")
    await moving.vote(poll.code, joined, 1)
    shown = await moving.hears("vote-update", votes=[0, 1, 0])
    # When the one at the other node moves there at once
    await moving.close()
    moved = await new_browser(slow_screens).connect()
    ack = await moved.join(poll.code, "Ada", joined["participantToken"])
    # Then nothing that she is shown is older than what she has seen
    assert (ack["poll"]["votes"], ack["poll"]["version"]) == ([0, 1, 0], shown["version"])
    await moved.hears("vote-update", votes=[0, 1, 0])
    await staying.hears("vote-update", votes=[0, 1, 0])
    assert min(update["version"] for update in moved.heard("vote-update")) >= shown["version"]


_SLOW_SCREENS = """
import asyncio
from socket_tier.fanout import Fanout
handle = Fanout._handle_emit
async def late(self, message):
    asyncio.get_running_loop().call_later(5, lambda: asyncio.ensure_future(handle(self, message)))
Fanout._handle_emit = late
from socket_tier.__main__ import main
main()
"""


@pytest.fixture
async def slow_screens(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a node that hears what goes over Redis five seconds late."""
    node = await asyncio.to_thread(ExtraNode, "slow-screens", tmp_path / "node.log", ("-c", _SLOW_SCREENS))
    yield node.url
    await asyncio.to_thread(node.stop)
