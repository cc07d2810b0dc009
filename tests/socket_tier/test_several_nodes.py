"""Two nodes behind HAProxy: one service to everybody, also while a node leaves and comes back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from scripts.faults.stack import RunningStack
from tests.breakable import addresses, base_url, database_url, first_stack, node_urls, redis_url, run_dir
from tests.socket_tier.balancer import COOKIE, Balancer, hammering
from tests.socket_tier.browsers import KINDS, POLLING_ONLY, Ack, Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.test_joining import choice_of
from tests.socket_tier.transport.clients import Poller, open_socket
from tests.socket_tier.waiting import eventually

# Nodes are stopped and frozen, and connections counted.
__all__ = ["addresses", "base_url", "database_url", "node_urls", "redis_url", "run_dir"]

pytestmark = first_stack
_SLOW_START_S = 5
_HELD_AT_MOST_S = 10.0  # a call by a node that hangs; see the balancer's configuration
_SAID_SO_ITSELF = "reason: Layer7 wrong status, code: 503"
EVERY_KIND = (*KINDS, POLLING_ONLY)


@pytest.fixture
def balancer(base_url: str, run_dir: Path) -> Balancer:
    return Balancer(base_url, run_dir / "log")


@pytest.fixture
async def stack(run_dir: Path) -> AsyncIterator[RunningStack]:
    """The stack; whole again after the test, whatever the test left of it."""
    stack = RunningStack(run_dir)
    yield stack
    await asyncio.to_thread(stack.mend)


@pytest.fixture
async def cookies(balancer: Balancer, node_urls: list[str]) -> dict[str, str]:
    """The balancer's cookie for each node, by the node's name."""
    by_name = {await balancer.behind(cookie): cookie for cookie in await balancer.cookies(len(node_urls))}
    assert len(by_name) == len(node_urls)
    return by_name


class Voters:
    """Participants who keep voting, each vote acked, on one connection each."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._voting: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.browsers: list[Browser] = []
        self.votes = 0

    async def add(self, browser: Browser, name: str) -> None:
        joined = await browser.join(self._poll.code, name)
        self.browsers.append(browser)
        self._voting.append(asyncio.create_task(self._vote(browser, joined), name=name))

    async def stop(self) -> None:
        """:raises AssertionError: a vote was refused, or a connection was lost"""
        self._stop.set()
        await asyncio.gather(*self._voting)
        assert [browser.connections for browser in self.browsers] == [1] * len(self.browsers)

    async def _vote(self, browser: Browser, joined: Ack) -> None:
        option = 0
        while not self._stop.is_set():
            ack = await browser.vote(self._poll.code, joined, option)
            assert ack["success"], ack
            self.votes += 1
            option = (option + 1) % 3
            await asyncio.sleep(0.05)


@pytest.mark.proves("FR-029", "FR-032", "US5.1")
async def test_a_version_means_the_same_on_every_node_and_all_screens_end_equal(
    new_browser: NewBrowser,
    rest: Rest,
    poll: Poll,
    host: Browser,
    node_urls: list[str],
    stored_votes: Callable[[str], dict[str, int]],
) -> None:
    # Given voters with each kind of client at each node
    voters = []
    for number, kind in enumerate(EVERY_KIND * 3):
        voter = await new_browser(node_urls[number % 2], kind=kind).connect()
        voters.append((voter, await voter.join(poll.code, f"v{number}")))

    # When they change their votes all at the same time
    async def keep_voting(voter: Browser, joined: Ack, first: int) -> None:
        for step in range(15):
            assert (await voter.vote(poll.code, joined, (first + step) % 3))["success"]
            await asyncio.sleep(0.05)

    await asyncio.gather(*(keep_voting(voter, joined, number) for number, (voter, joined) in enumerate(voters)))
    assert (await host.change(poll.code, "closed"))["success"]
    # Then all screens end with the same totals, which are those of the votes table and of each node
    screens = [host, *(voter for voter, _ in voters)]
    ends = [await screen.hears("vote-update", final=True, within_s=30) for screen in screens]
    stored = list(stored_votes(poll.code).values())
    assert len(stored) == len(voters)
    totals = [stored.count(option) for option in range(3)]
    answers = [await rest.read(poll, url=url) for url in node_urls]
    assert {(end["version"], *end["votes"]) for end in (*ends, *answers)} == {(ends[0]["version"], *totals)}
    # And whatever a screen was shown on the way was the same under the same version, wherever it was
    shown: dict[int, set[tuple[int, ...]]] = {}
    for screen in screens:
        versions = [update["version"] for update in screen.heard("vote-update")]
        assert versions == sorted(versions)
        for update in screen.heard("vote-update"):
            shown.setdefault(update["version"], set()).add(tuple(update["votes"]))
    assert len(shown) > 3
    assert all(len(votes) == 1 for votes in shown.values())


@pytest.mark.proves("FR-031", "US5.2")
async def test_clients_are_spread_within_ten_percent_of_even(
    balancer: Balancer, rest: Rest, node_urls: list[str]
) -> None:
    # Given nodes that the balancer no longer spares as newcomers
    async def settled() -> bool:
        healths = [await rest.get("/api/health", url=url) for url in node_urls]
        return all(health.body["uptime"] > _SLOW_START_S + 2 for health in healths)

    await eventually(settled, "nodes that have been up for a while")
    landed: Counter[str] = Counter()
    async with AsyncExitStack() as open_ones:

        async def come(number: int) -> None:
            jar = aiohttp.CookieJar(unsafe=True)
            session = await open_ones.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            if number % 4:
                open_ones.push_async_callback((await open_socket(session, balancer.url)).close)
            else:
                poller = await Poller(session, balancer.url).open()
                open_ones.callback(poller.hang().cancel)
            landed[{cookie.key: cookie.value for cookie in jar}[COOKIE]] += 1

        # When two hundred clients come, most with WebSockets, some of them polling with one request after the other
        for wave in range(10):
            await asyncio.gather(*(come(20 * wave + number) for number in range(20)))
    # Then each node has its half
    assert len(landed) == len(node_urls)
    fair = 200 / len(node_urls)
    assert all(abs(clients - fair) <= 0.1 * fair for clients in landed.values()), landed


@pytest.mark.proves("FR-027", "FR-029", "FR-030", "FR-031", "FR-032", "US5.3", "US5.4", "US5.5", "E3")
async def test_a_node_that_drains_leaves_and_comes_back_unnoticed(
    new_browser: NewBrowser,
    poll: Poll,
    balancer: Balancer,
    cookies: dict[str, str],
    stack: RunningStack,
    node_urls: list[str],
    rest: Rest,
    stored_votes: Callable[[str], dict[str, int]],
) -> None:
    # Given voters with each kind of client at either node, and a host at the one that stays
    host = await new_browser(kind="python", cookies={COOKIE: cookies["node-2"]}).connect()
    await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
    staying = Voters(poll)
    for kind in EVERY_KIND:
        await staying.add(await new_browser(kind=kind, cookies={COOKIE: cookies["node-2"]}).connect(), f"stays {kind}")
    moving = []
    for number, kind in enumerate(EVERY_KIND):
        mover = await new_browser(kind=kind, cookies={COOKIE: cookies["node-1"]}).connect()
        joined = await mover.join(poll.code, f"moves {kind}")
        assert (await mover.vote(poll.code, joined, number % 3))["success"]
        moving.append((mover, joined, f"moves {kind}", number % 3))
    # When the first node is restarted, as in a deployment, while others call without a pause
    async with hammering(balancer.url, poll) as hammer:
        async with balancer.says("nodes/node-1 is UP"), balancer.says(f"nodes/node-1 is DOWN, {_SAID_SO_ITSELF}"):
            await asyncio.to_thread(stack["node-1"].restart)
        back = time.monotonic()
        await eventually(lambda: all(hammer.done(back)[what] > 10 for what in hammer.done(0)), "calls afterwards")
    # Then no call has failed
    assert hammer.failed() == []
    # And whoever was there is back by itself, once, as the same participant with the same vote
    await eventually(lambda: all(mover.connections == 2 for mover, *_ in moving), "everybody at the other node")
    for mover, joined, name, option in moving:
        again = await mover.join(poll.code, name)
        assert (again["participantId"], again["previousVote"]) == (joined["participantId"], option)
        assert (await mover.vote(poll.code, again, 2))["success"]
    # And nobody at the other node has noticed
    await staying.stop()
    assert host.connections == 1
    assert host.heard("participant-left") == []
    await eventually(
        lambda: all(stored_votes(poll.code)[joined["participantId"]] == 2 for _, joined, *_ in moving), "the votes"
    )
    # And newcomers are sent to the node again
    assert await balancer.behind(cookies["node-1"]) == "node-1"


@pytest.mark.proves("FR-029", "FR-031", "FR-032", "FR-037", "US5.3", "US5.4", "US5.5")
async def test_a_node_that_hangs_is_left_out_until_it_answers_again(
    new_browser: NewBrowser,
    poll: Poll,
    balancer: Balancer,
    cookies: dict[str, str],
    stack: RunningStack,
    node_urls: list[str],
    rest: Rest,
    redis_url: str,
) -> None:
    # Given voters with each kind of client at the node that goes on, and somebody who polls at the other
    staying = Voters(poll)
    for kind in EVERY_KIND:
        await staying.add(await new_browser(kind=kind, cookies={COOKIE: cookies["node-2"]}).connect(), f"stays {kind}")
    polling = await new_browser(kind=POLLING_ONLY, cookies={COOKIE: cookies["node-1"]}).connect()
    joined = await polling.join(poll.code, "polls")
    assert (await polling.vote(poll.code, joined, 1))["success"]
    await eventually(lambda: choice_of(redis_url, poll, joined) == "1", "the choice, written behind the ack")
    async with hammering(balancer.url, poll, callers=8) as hammer:
        await eventually(lambda: len(hammer.done(0)) == 4, "calls of each kind")
        # When the node hangs, and the balancer has noticed
        try:
            async with balancer.says("nodes/node-1 is DOWN"):
                await asyncio.to_thread(stack["node-1"].freeze)
            noticed = time.monotonic()
            # Then who comes now is served, also with a cookie for that node
            async with raw_socket(balancer.url, cookies={COOKIE: cookies["node-1"]}) as socket:
                assert (await socket.refusal("join", '"ZZZZZZ"'))["error"] == "Poll not found"
            # And who polls goes on at the other node, with the next thing that is sent, as the same participant
            lost = {"roomCode": poll.code, "participantId": joined["participantId"], "optionIndex": 2}
            await polling.emit("submit-vote", lost)
            await eventually(lambda: polling.connections == 2, "the poller at the other node")
            again = await polling.join(poll.code, "polls")
            assert (again["participantId"], again["previousVote"]) == (joined["participantId"], 1)
            assert (await polling.vote(poll.code, again, 0))["success"]
            # And the calls that the node holds come to an end
            await eventually(lambda: hammer.callers(noticed) == 8, "the end of held calls", _HELD_AT_MOST_S + 15)
        finally:
            async with balancer.says("nodes/node-1 is UP"):
                await asyncio.to_thread(stack["node-1"].thaw)
    # No call that began after the balancer had noticed failed, or waited for that node
    assert hammer.failed(noticed) == []
    assert max(call.took_s for call in hammer.calls if call.began > noticed) < _HELD_AT_MOST_S
    # Of those before, what may be repeated was answered by the other node; the others were told to try again
    held = hammer.failed()
    assert {call.result for call in held} <= {504} and {call.what for call in held} <= {"create", "change"}, held
    await staying.stop()
    # And newcomers are sent to the node again
    assert await balancer.behind(cookies["node-1"]) == "node-1"


@pytest.mark.proves("FR-011", "FR-031")
async def test_without_any_node_the_balancer_answers_in_their_words(balancer: Balancer, stack: RunningStack) -> None:
    names = ("node-1", "node-2")
    try:
        for name in names:
            async with balancer.says(f"nodes/{name} is DOWN"):
                await asyncio.to_thread(stack[name].freeze)
        async with aiohttp.ClientSession() as session, session.get(f"{balancer.url}/") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            body = await answer.json()
            assert (body["success"], body["code"], body["retryAfter"]) == (False, "no_node", 1)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    finally:
        for name in names:
            async with balancer.says(f"nodes/{name} is UP"):
                await asyncio.to_thread(stack[name].thaw)
