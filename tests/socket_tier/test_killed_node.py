"""A node that is killed: its people go on at another one, and nobody else notices."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.faults.stack import RunningStack
from tests.breakable import addresses, base_url, database_url, node_urls, run_dir, second_stack
from tests.socket_tier.browsers import KINDS, Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.raw_socket import raw_socket
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

# A node is killed, and connections are counted.
__all__ = ["addresses", "base_url", "database_url", "node_urls", "run_dir"]

pytestmark = second_stack


@pytest.mark.proves("FR-029", "FR-004", "SC-002")
@pytest.mark.parametrize("kind", KINDS)
async def test_when_a_node_is_killed_its_people_go_on_at_another(
    new_browser: NewBrowser,
    kind: str,
    poll: Poll,
    rest: Rest,
    node_urls: list[str],
    node_pids: Callable[[], list[int | None]],
    stored_votes: Callable[[str], dict[str, int]],
) -> None:
    # Given participants behind the balancer who have voted, so that each node has some, and a watcher at the first node
    watcher = await new_browser(node_urls[0], kind="python").connect()
    await watcher.call("join", {"roomCode": poll.code, "viewer": True})
    voters = []
    for number in range(6):
        voter: Browser = await new_browser().connect()
        joined = await voter.join(poll.code, f"v{number}")
        assert (await voter.vote(poll.code, joined, number % 3))["success"]
        voters.append((voter, joined, number % 3))
    # And one more at the second node who will not come back
    async with raw_socket(node_urls[1]) as lost:
        number = lost.numbered()
        await lost.send(f'42{number}["join-room",{{"roomCode":"{poll.code}","nickname":"lost"}}]')
        assert (await lost.answer("join-room", number))["success"]
        await watcher.hears("vote-update", votes=[2, 2, 2])
        await eventually(lambda: participants(rest, poll, node_urls[0], 7), "seven participants")
        health = (await rest.get("/api/health", url=node_urls[1])).body
        moving = health["dependencies"]["socketio"]["connectedClients"] - 1
        assert moving > 0
        # When the second node is killed
        victim = node_pids()[1]
        os.kill(victim, signal.SIGKILL)
        await lost.closed.wait()
    # Then all who were there reconnect within the MVP client's patience
    await eventually(
        lambda: sum(voter.connected and voter.connections == 2 for voter, _, _ in voters) == moving,
        f"{moving} voters back",
    )
    # And each is the same participant with the same vote, and goes on voting
    for index, (voter, joined, option) in enumerate(voters):
        again = await voter.join(poll.code, f"v{index}", joined["participantToken"])
        assert again["participantId"] == joined["participantId"]
        assert again["previousVote"] == option
        assert (await voter.vote(poll.code, again, 2))["success"]
    # And the one who was lost leaves the count, and nobody else
    await eventually(lambda: participants(rest, poll, node_urls[0], 6), "six participants", 20)
    await watcher.hears("participant-left", nickname="lost")
    await watcher.hears("vote-update", votes=[0, 0, 6])
    assert set(stored_votes(poll.code).values()) == {2}

    # Afterwards the second node is back
    await is_back(rest, node_urls[1])
    assert node_pids()[1] != victim
    assert {event["nickname"] for event in watcher.heard("participant-left")} == {"lost"}


async def participants(rest: Rest, poll: Poll, url: str, count: int) -> bool:
    return (await rest.read(poll, url=url))["participantCount"] == count


async def is_back(rest: Rest, url: str) -> None:
    async def ready() -> bool:
        try:
            return (await rest.get("/api/health/ready", url=url)).status == 200
        except OSError:
            return False

    await eventually(ready, "the node is back", 60)


@pytest.mark.proves("FR-004", "SC-002")
@pytest.mark.parametrize("moment", ["at once", "before the commit", "after the commit"])
async def test_whose_node_is_killed_right_after_an_ack_finds_that_choice_at_another(
    moment: str,
    new_browser: NewBrowser,
    rest: Rest,
    node_urls: list[str],
    run_dir: Path,
    node_pids: Callable[[], list[int | None]],
    stored_votes: Callable[[str], dict[str, int]],
) -> None:
    # Given voters at the second node who have voted in one poll before, and not yet in one whose votes stand
    poll, fixed = await rest.open_poll(), await rest.open_poll(voteChange=False, results="after-vote")
    voters = []
    for number in range(4):
        voter: Browser = await new_browser(node_urls[1], kind="python").connect()
        joined = [await voter.join(one.code, f"v{number}") for one in (poll, fixed)]
        assert (await voter.vote(poll.code, joined[0], 0))["success"]
        await voter.hears("vote-recorded", roomCode=poll.code)
        voters.append((voter, joined))
    workers = RunningStack(run_dir).of_kind("worker")
    try:
        if moment == "before the commit":
            for worker in workers:
                worker.freeze()
        # When they vote in both, and the node is killed
        acks = [
            voter.vote(one.code, who, 2) for voter, both in voters for one, who in zip((poll, fixed), both, strict=True)
        ]
        assert all(ack["success"] for ack in await asyncio.gather(*acks))
        if moment == "after the commit":
            await eventually(lambda: len(stored_votes(fixed.code)) == len(voters), "the votes are stored")
        os.kill(node_pids()[1], signal.SIGKILL)
        # Then each finds the last choice at the first node, as soon as it is committed
        movers = []
        for number, (_, joined) in enumerate(voters):
            mover: Browser = await new_browser(node_urls[0], kind="python").connect()
            for one, who in zip((poll, fixed), joined, strict=True):
                await mover.join(one.code, f"v{number}", who["participantToken"])
            movers.append((mover, number, joined))
    finally:
        for worker in workers:
            worker.thaw()
    for mover, number, joined in movers:
        for one, who in zip((poll, fixed), joined, strict=True):

            async def shown(mover=mover, one=one, number=number, who=who) -> bool:
                again = await mover.join(one.code, f"v{number}", who["participantToken"])
                assert again["reconnected"]
                return again["previousVote"] == 2 and again["poll"]["votes"][2] == len(voters)

            await eventually(shown, f"the choice of v{number}")
        # And nobody is let vote again where votes stand
        refused = await mover.vote(fixed.code, joined[1], 0)
        assert (refused["success"], refused.get("code")) == (False, "vote_stands")
        assert not mover.heard("vote-rejected")
    assert set(stored_votes(poll.code).values()) == set(stored_votes(fixed.code).values()) == {2}
    await is_back(rest, node_urls[1])
