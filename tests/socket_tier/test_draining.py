"""A node that drains: what it has taken is answered, its sockets go one after the other, and nobody counts as gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from models.runtime.settings import load
from scripts.stack.ports import LOOPBACK, any_free
from socket_tier import draining
from socket_tier.app import Node
from socket_tier.connections import Runner
from tests.socket_tier.browsers import Browser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node in this process, beside those of the stack, which holds votes for as long as a setting allows."""
    settings, replace = load(), msgspec.structs.replace
    settings = replace(
        settings,
        node=replace(settings.node, name="node-that-drains", port=any_free()),
        batch=replace(settings.batch, max_wait_s=1.0),
    )
    node = Node(settings)
    runner = Runner(node.app, node.connections, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, settings.node.port).start()
    await eventually(lambda: node.readiness.reason is None, "a node that is ready")
    yield node
    await runner.cleanup()


async def vote(socket: RawSocket, poll: Poll, participant_id: str) -> int:
    """Send one; the number that its ack will have."""
    number = socket.numbered()
    await socket.send(
        f'42{number}["submit-vote",{{"roomCode":"{poll.code}","participantId":"{participant_id}","optionIndex":1}}]'
    )
    return number


@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # errors here, silent in a node
@pytest.mark.proves("FR-027", "SC-002", "E3")
async def test_a_vote_that_a_node_holds_when_it_drains_is_acked_before_its_socket_ends(
    node: Node, poll: Poll, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given voters on a node, each with a vote that is not at the broker yet
    monkeypatch.setattr(draining, "_SOCKETS_PER_S", 20)
    url = f"http://{LOOPBACK}:{node.settings.node.port}"
    async with AsyncExitStack() as open_ones:
        voters = [await open_ones.enter_async_context(raw_socket(url)) for _ in range(10)]
        joined = await asyncio.gather(
            *(v.call("join-room", {"roomCode": poll.code, "nickname": f"v{n}"}) for n, v in enumerate(voters))
        )
        votes = [await vote(v, poll, ack["participantId"]) for v, ack in zip(voters, joined, strict=True)]
        await eventually(lambda: node.buffer.held == len(voters), "votes that are held")
        # When the node closes its sockets
        ends: list[float] = []
        waiting = [asyncio.create_task(voter.closed.wait()) for voter in voters]
        for task in waiting:
            task.add_done_callback(lambda _: ends.append(time.monotonic()))
        await draining._close_sockets(node)
        await asyncio.wait_for(asyncio.gather(*waiting), 10)
        # Then each voter has the ack
        for voter, number in zip(voters, votes, strict=True):
            assert (await voter.answer("submit-vote", number))["success"]
    # And they did not all go at once
    assert max(ends) - min(ends) > 0.3


@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")
async def test_what_a_client_says_while_its_last_vote_is_answered_is_not_taken(node: Node, poll: Poll) -> None:
    # Given two voters, the first of whom is being sent away
    url = f"http://{LOOPBACK}:{node.settings.node.port}"
    async with raw_socket(url) as going, raw_socket(url) as staying:
        asked = [v.call("join-room", {"roomCode": poll.code, "nickname": n}) for v, n in ((going, "A"), (staying, "B"))]
        joined = await asyncio.gather(*asked)
        next(iter(node.server.eio.sockets.values())).stop_listening()
        # When both vote
        for voter, ack in zip((going, staying), joined, strict=True):
            await vote(voter, poll, ack["participantId"])
        # Then the first one's is left to be said again
        taken = lambda: node.buffer.held or node.metrics._counts["votes.accepted"]  # noqa: E731
        await eventually(taken, "a vote that is taken")
        await node.buffer.settle(10)
        assert node.buffer.share_held() == 0
        assert node.metrics._counts["votes.accepted"] == 1


@pytest.mark.proves("FR-027", "US5.5", "E3")
async def test_whoever_moves_from_a_node_that_drains_has_neither_left_nor_come(
    host: Browser, poll: Poll, rest: Rest, node_urls: list[str], run_dir: Path
) -> None:
    # Given participants on a node that takes whoever goes for gone at once, as any does after the grace of a reload
    leaving = ExtraNode("node-leaving", run_dir / "log" / "node-leaving.log", ROOM__LEAVE_GRACE_S="0")
    async with raw_socket(leaving.url) as ada:
        joined = await ada.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
        await host.hears("participant-joined", nickname="Ada")
        # When the node drains and ends before she is back
        await asyncio.to_thread(leaving.stop)
        await ada.closed.wait()
    # Then she counts all the time
    assert (await rest.read(poll))["participantCount"] == 1
    async with raw_socket(node_urls[0]) as ada, raw_socket(node_urls[0]) as bo:
        again = {"roomCode": poll.code, "nickname": "Ada", "participantToken": joined["participantToken"]}
        assert (await ada.call("join-room", again))["reconnected"]
        assert (await rest.read(poll))["participantCount"] == 1
        # And nobody is told anything, until somebody else comes
        assert (await bo.call("join-room", {"roomCode": poll.code, "nickname": "Bo"}))["success"]
        await host.hears("participant-joined", nickname="Bo")
        assert [event["nickname"] for event in host.heard("participant-joined")] == ["Ada", "Bo"]
        assert host.heard("participant-left") == []
