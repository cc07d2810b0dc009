"""A node that is killed: its people go on at another one, and nobody else notices."""

import os
import signal
from collections.abc import Callable

import pytest

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
    async def back() -> bool:
        try:
            return (await rest.get("/api/health/ready", url=node_urls[1])).status == 200
        except OSError:
            return False

    await eventually(back, "the second node is back", 30)
    assert node_pids()[1] != victim
    assert {event["nickname"] for event in watcher.heard("participant-left")} == {"lost"}


async def participants(rest: Rest, poll: Poll, url: str, count: int) -> bool:
    return (await rest.read(poll, url=url))["participantCount"] == count
