"""The races that the node must win: a slow clock, and results and votes out of order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import socketio

from models.wire import names
from tests.socket_tier.browsers import Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.rest import Poll, Rest

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
