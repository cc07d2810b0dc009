"""The races that the node must win: a slow clock, changes of state at once, and results and votes out of order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
import redis
import socketio

from models.wire import names
from tests.socket_tier.browsers import Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

Lock = Callable[[Poll], AbstractContextManager[None]]

# A node like any other, on a machine whose clock is two seconds behind.
_SLOW_NODE = """
import time
_ns, _s = time.time_ns, time.time
time.time_ns = lambda: _ns() - 2_000_000_000
time.time = lambda: _s() - 2
from socket_tier.__main__ import main
main()
"""


@pytest.fixture
async def slow_node(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a node whose clock is two seconds behind the others'."""
    node = ExtraNode("slow-clock", tmp_path / "slow-node.log", ("-c", _SLOW_NODE))
    yield node.url
    await asyncio.to_thread(node.stop)  # its browsers hear of it meanwhile


@pytest.fixture
def asked(database_url: str) -> Callable[[Poll], list[str]]:
    """Reads the states that a poll's log has, in the order in which they were asked for."""

    def read(poll: Poll) -> list[str]:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            query = "SELECT new_state FROM state_changes s JOIN polls p ON p.id = poll_id WHERE room_code = %s"
            cursor.execute(query + " ORDER BY at_us", (poll.code,))
            return [state for (state,) in cursor.fetchall()]

    return read


@pytest.fixture
def locked(database_url: str) -> Lock:
    """``with locked(poll):`` nobody else gets at the poll's row. For a moment: workers wait for it."""

    @contextmanager
    def lock(poll: Poll) -> Iterator[None]:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT FROM polls WHERE room_code = %s FOR UPDATE", (poll.code,))
            yield

    return lock


@pytest.fixture
async def hosts(new_browser: NewBrowser, rest: Rest, node_urls: list[str]) -> tuple[Poll, list[Browser]]:
    """A poll that was closed, and a page of its host at each node."""
    poll = await rest.open_poll()
    assert (await rest.change(poll, "closed")).status == 200
    pages = []
    for url in node_urls:
        page = await new_browser(url).connect()
        await page.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
        await page.hears("poll-state-changed", newState="closed")
        pages.append(page)
    return poll, pages


async def shown_everywhere(rest: Rest, poll: Poll, node_urls: list[str], pages: list[Browser], state: str) -> None:
    async def shown() -> bool:
        nodes = [(await rest.read(poll, url=url))["state"] for url in node_urls]
        return {*nodes, *(page.heard("poll-state-changed")[-1]["newState"] for page in pages)} == {state}

    await eventually(shown, f"{state} is shown by every node and page")


@pytest.mark.parametrize("pause_s", [0, 0.005])
@pytest.mark.parametrize("way", ["same node", "other node", "REST"])
async def test_of_an_opening_and_a_close_at_once_the_one_that_came_last_holds(
    hosts: tuple[Poll, list[Browser]],
    rest: Rest,
    node_urls: list[str],
    asked: Callable[[Poll], list[str]],
    way: str,
    pause_s: float,
) -> None:
    poll, pages = hosts
    for _ in range(5):
        before = len(asked(poll))
        # When one tab opens a closed poll, and another closes it before anybody has decided about that
        opening = asyncio.create_task(pages[0].change(poll.code, "open"))
        await asyncio.sleep(pause_s)
        if way == "REST":
            close = (await rest.change(poll, "closed", url=node_urls[1])).body
        else:
            close = await pages[way == "other node"].change(poll.code, "closed")
        assert close["success"] and (await opening)["success"]
        # Then both are in the log, and the one that was received last holds
        await eventually(lambda: len(asked(poll)) == before + 2, "both are in the log")  # noqa: B023
        await shown_everywhere(rest, poll, node_urls, pages, asked(poll)[-1])
        assert (await rest.change(poll, "closed")).body["state"] == "closed"


@pytest.mark.parametrize("states", [("open", "closed", "open", "closed"), ("open", "waiting"), ("closed", "open")])
async def test_what_is_asked_for_while_a_poll_is_locked_is_applied_in_that_order(
    hosts: tuple[Poll, list[Browser]],
    rest: Rest,
    node_urls: list[str],
    asked: Callable[[Poll], list[str]],
    locked: Lock,
    states: tuple[str, ...],
) -> None:
    poll, pages = hosts
    # When the database holds changes up, and more are asked for meanwhile, at one node after the other
    with locked(poll):
        asking = []
        for number, state in enumerate(states):
            asking.append(asyncio.create_task(pages[number % 2].change(poll.code, state)))
            await asyncio.sleep(0.2)
    # Then all of them are applied, in the order in which they came
    for ack in await asyncio.gather(*asking):
        assert ack["success"], ack
    await eventually(lambda: asked(poll) == ["open", "closed", *states], "all are in the log, in order")
    await shown_everywhere(rest, poll, node_urls, pages, states[-1])


async def test_a_close_holds_at_every_node_before_anybody_has_applied_it(
    new_browser: NewBrowser, poll: Poll, rest: Rest, node_urls: list[str], locked: Lock
) -> None:
    voter = await new_browser(node_urls[1]).connect()
    joined = await voter.join(poll.code, "Ada")
    assert (await voter.vote(poll.code, joined, 0))["success"]
    await voter.hears("vote-update", votes=[1, 0, 0])  # the worker has done with the row
    with locked(poll):
        closing = asyncio.create_task(rest.change(poll, "closed", url=node_urls[0]))
        await voter.hears("poll-state-changed", 10, newState="closed", previousState="open")
        assert (await voter.vote(poll.code, joined, 1))["error"] == "Voting is not open"
    assert (await closing).body["success"]
    await voter.hears("vote-update", votes=[1, 0, 0], final=True)


async def test_an_opening_that_a_later_close_has_caught_up_with_takes_no_votes_anywhere(
    hosts: tuple[Poll, list[Browser]],
    rest: Rest,
    node_urls: list[str],
    redis_url: str,
    asked: Callable[[Poll], list[str]],
    locked: Lock,
) -> None:
    poll, pages = hosts
    with closing(redis.Redis.from_url(redis_url)) as cache, locked(poll):
        # Given an opening on its way from one node
        opening = asyncio.create_task(pages[0].change(poll.code, "open"))
        await asyncio.sleep(0.1)
        # When the other one, which knows the poll as closed, is asked to close it
        close = asyncio.create_task(pages[1].change(poll.code, "closed"))
        await eventually(lambda: cache.hget(names.room_key(poll.code), "closing_us"), "the close is announced", 10)
        await asyncio.sleep(0.3)
    # Then no page ever shows it open, in whatever order the two are applied
    acks = await asyncio.gather(opening, close)
    assert all(ack["success"] for ack in acks), acks
    await eventually(lambda: len(asked(poll)) == 4, "both are in the log")
    await shown_everywhere(rest, poll, node_urls, pages, "closed")
    assert not any(page.heard("poll-state-changed", newState="open") for page in pages)


@pytest.mark.proves("FR-030", "FR-032")
async def test_a_newer_choice_wins_on_a_node_whose_clock_is_behind(
    new_browser: NewBrowser,
    poll: Poll,
    node_urls: list[str],
    slow_node: str,
    stored_votes: Callable[[str], dict[str, int]],
) -> None:
    # Given a participant who has voted at a node with the right time
    first = await new_browser(node_urls[0]).connect()
    joined = await first.join(poll.code, "Ada")
    for option in (0, 1):
        assert (await first.vote(poll.code, joined, option))["success"]
    await first.hears("vote-update", votes=[0, 1, 0])
    await first.close()
    # When she moves at once to a node whose clock is two seconds behind, and changes her mind
    second = await new_browser(slow_node).connect()
    resumed = await second.join(poll.code, "Ada", joined["participantToken"])
    assert resumed["participantId"] == joined["participantId"]
    assert (await second.vote(poll.code, resumed, 2))["success"]
    # Then the newer choice counts, although the clock calls it the older one
    await second.hears("vote-update", votes=[0, 0, 1])
    assert stored_votes(poll.code) == {joined["participantId"]: 2}
    # And again on the way back
    third = await new_browser(node_urls[0]).connect()
    back = await third.join(poll.code, "Ada", joined["participantToken"])
    assert (await third.vote(poll.code, back, 0))["success"]
    await third.hears("vote-update", votes=[1, 0, 0])


async def test_a_poll_opened_at_a_node_with_the_right_time_takes_votes_at_the_slow_one(
    new_browser: NewBrowser, rest: Rest, slow_node: str, stored_votes: Callable[[str], dict[str, int]]
) -> None:
    # Given a voter at the slow node
    poll = await rest.create()
    voter = await new_browser(slow_node).connect()
    joined = await voter.join(poll.code, "Ada")
    # When the poll is opened elsewhere and she votes at once, two seconds before the opening by her node's clock
    await rest.change(poll, "open")
    await voter.hears("poll-state-changed", newState="open", previousState="waiting")
    assert (await voter.vote(poll.code, joined, 1))["success"]
    # Then the vote counts
    await voter.hears("vote-update", votes=[0, 1, 0])
    assert stored_votes(poll.code) == {joined["participantId"]: 1}


async def test_the_slow_node_closes_what_another_has_opened(
    new_browser: NewBrowser, rest: Rest, slow_node: str
) -> None:
    # Given a poll that was opened this moment by a node with the right time
    poll = await rest.open_poll()
    voter = await new_browser().connect()
    joined = await voter.join(poll.code, "Ada")
    # When the host closes it by way of the slow node
    assert (await rest.change(poll, "closed", url=slow_node)).body["state"] == "closed"
    # Then it is closed everywhere, and becomes final
    await voter.hears("poll-state-changed", newState="closed", previousState="open")
    assert (await voter.vote(poll.code, joined, 0))["error"] == "Voting is not open"
    await voter.hears("vote-update", final=True, within_s=30)


async def test_an_older_version_never_reaches_a_browser_after_a_newer_one(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str
) -> None:
    # Given somebody at each node, shown the present totals
    watchers = [await new_browser(url).connect() for url in node_urls]
    for watcher in watchers:
        await watcher.call("join", {"roomCode": poll.code, "viewer": True})
        await watcher.hears("vote-update")
    newest = watchers[0].heard("vote-update")[-1]
    manager = socketio.RedisManager(redis_url, channel=names.FANOUT_CHANNEL, write_only=True)

    def publish(version: int, votes: list[int]) -> None:
        update = {**newest, "version": version, "votes": votes, "percentages": [100, 0, 0]}
        manager.emit("vote-update", update, room=poll.code)

    # When workers publish a newer version, and afterwards older ones, in one tick and over several
    publish(newest["version"] + 10, [10, 0, 0])
    for _ in range(3):
        publish(newest["version"] + 5, [5, 0, 0])
        await asyncio.sleep(0.3)
    publish(newest["version"] + 7, [7, 0, 0])
    publish(newest["version"] + 20, [20, 0, 0])
    publish(newest["version"] + 15, [15, 0, 0])
    # Then only the newer ones are seen
    for watcher in watchers:
        await watcher.hears("vote-update", version=newest["version"] + 20)
        versions = [update["version"] - newest["version"] for update in watcher.heard("vote-update")]
        assert versions == sorted(versions)
        assert not {5, 7, 15} & set(versions)
    # And whoever comes now is shown the newest as well
    late = await new_browser(node_urls[0]).connect()
    await late.call("join", {"roomCode": poll.code, "viewer": True})
    assert (await late.hears("vote-update"))["votes"] == [20, 0, 0]


async def test_an_older_version_than_the_one_shown_on_joining_never_follows(
    new_browser: NewBrowser, poll: Poll, redis_url: str, node_urls: list[str]
) -> None:
    # Given a room that everybody at this node has left, so that the node forgets what it last sent
    earlier = await new_browser(node_urls[0]).connect()
    await earlier.call("join", {"roomCode": poll.code, "viewer": True})
    await earlier.close()
    await asyncio.sleep(0.5)
    # And somebody who comes now and is shown the present totals
    watcher = await new_browser(node_urls[0]).connect()
    await watcher.call("join", {"roomCode": poll.code, "viewer": True})
    shown = await watcher.hears("vote-update")
    # When a worker that was held up publishes an older version, and then somebody a newer one
    manager = socketio.RedisManager(redis_url, channel=names.FANOUT_CHANNEL, write_only=True)
    for version in (shown["version"] - 5, shown["version"] + 5):
        manager.emit("vote-update", {**shown, "version": version}, room=poll.code)
        await asyncio.sleep(0.3)
    # Then only the newer one is seen
    await watcher.hears("vote-update", version=shown["version"] + 5)
    assert not watcher.heard("vote-update", version=shown["version"] - 5)


async def test_votes_sent_while_nobody_knows_the_room_yet_are_not_lost(
    new_browser: NewBrowser, poll: Poll, node_urls: list[str], redis_url: str
) -> None:
    """Vote before registration: both travel on queues of their own, and the vote may be the quicker one."""
    voters = [await new_browser(node_urls[number % 2]).connect() for number in range(10)]

    async def join_and_vote(voter: Browser) -> None:
        joined = await voter.join(poll.code, uuid4().hex[:10])
        assert (await voter.vote(poll.code, joined, 1))["success"]

    await asyncio.gather(*(join_and_vote(voter) for voter in voters))
    for voter in voters:
        await voter.hears("vote-update", votes=[0, 10, 0])
        assert voter.heard("vote-recorded") and not voter.heard("vote-rejected")
