"""The way to the screens, node by node: who is written to, in which turns, and how the node knows that it is deaf."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import socketio

from models.runtime.settings import load
from models.wire import names
from models.wire.polls import PollSnapshot, PollState
from socket_tier.app import Node
from socket_tier.fanout import Fanout
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.server import SocketServer
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.unfinished import Bodies, Unfinished
from tests.socket_tier.half_dead_proxy import HalfDeadProxy
from tests.socket_tier.proxy import Proxy
from tests.socket_tier.waiting import eventually

ROOM = "ABC234"
MANY = 1500  # members, more than are written in one turn


def update(version: int, code: str = ROOM) -> dict[str, Any]:
    return {"roomCode": code, "version": version, "votes": [version], "final": False}


def add_member(server: SocketServer, room: str) -> DirectSocket:
    """A client that polls, with nothing waiting for it."""
    sid = uuid4().hex
    server.manager.basic_enter_room(sid, "/", room, eio_sid=sid)
    server.eio.sockets[sid] = DirectSocket(server.eio, sid)
    return server.eio.sockets[sid]


def received(socket: DirectSocket) -> list[Any]:
    """Names and payloads of the events that wait for a client."""
    packets = [socket.queue.get_nowait() for _ in range(socket.queue.qsize())]
    return [tuple(msgspec.json.decode(packet.data[1:])) for packet in packets]


class Here:
    """One node's fan-out on a Redis. ``heard`` are the events that came, ``hearing`` is what it said of itself."""

    def __init__(self, redis_url: str) -> None:
        settings = load()
        redis = msgspec.structs.replace(settings.redis, url=redis_url)
        metrics = NodeMetrics(settings.metrics, "node", "test")
        self.heard: list[Any] = []
        self.hearing: list[bool] = []
        self.pipeline = RedisPipeline(redis, metrics)
        self.fanout = Fanout(redis, self.pipeline, metrics, route=self._route, on_hearing=self.hearing.append)
        bodies = Bodies(Unfinished(settings.node.max_unfinished_bytes), settings.node.body_deadline_s)
        limits = Limits(settings.limits, metrics)
        self.server = SocketServer(settings, self.fanout, limits, bodies)

    async def listen(self) -> None:
        self.fanout.initialize()
        await eventually(lambda: self.hearing == [True], "the listener to hear itself")

    async def close(self) -> None:
        if self.hearing:
            await self.fanout.close()
        await self.pipeline.close()

    def _route(self, _event: str, _room: str, payload: Any) -> bool:
        self.heard.append(payload)
        return True


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(redis_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def here(proxy: Proxy) -> AsyncIterator[Here]:
    here = Here(proxy.url)
    yield here
    await here.close()


@pytest.fixture
async def half_dead(redis_url: str) -> AsyncIterator[HalfDeadProxy]:
    proxy = HalfDeadProxy(redis_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def behind_half_dead(half_dead: HalfDeadProxy) -> AsyncIterator[Here]:
    here = Here(half_dead.url)
    yield here
    await here.close()


async def test_an_event_for_a_room_without_members_here_is_not_even_encoded(here: Here) -> None:
    # Given an event that can't be encoded, then nobody notices where nobody is
    await here.fanout.deliver(ROOM, "tick", object())
    await here.fanout.deliver_results(ROOM, {"roomCode": ROOM, "version": 1, "more": object()})
    # And with one member it fails
    add_member(here.server, ROOM)
    with pytest.raises(TypeError):
        await here.fanout.deliver(ROOM, "tick", object())


async def test_all_members_of_a_room_are_written_to_and_nobody_else(here: Here) -> None:
    inside = [add_member(here.server, ROOM) for _ in range(3)]
    outside = add_member(here.server, "another")
    await here.fanout.deliver(ROOM, "tick", 1)
    assert [received(socket) for socket in inside] == [[("tick", 1)]] * 3
    assert received(outside) == []


async def test_a_large_room_is_written_in_turns_between_which_other_work_gets_its_own(here: Here) -> None:
    members = [add_member(here.server, ROOM) for _ in range(MANY)]
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(other_work())
    await here.fanout.deliver(ROOM, "tick", 1)
    working.cancel()
    assert turns >= MANY // 500 - 1
    assert all(received(socket) == [("tick", 1)] for socket in members)


async def test_who_was_shown_newer_totals_before_its_turn_is_not_shown_the_older_ones(here: Here) -> None:
    # Given a large room that is being written to
    members = [add_member(here.server, ROOM) for _ in range(MANY)]
    delivering = asyncio.create_task(here.fanout.deliver_results(ROOM, update(1)))
    await asyncio.sleep(0)
    assert members[0].queue.qsize() == 1 and members[-1].queue.empty()
    # When the last member is shown a newer version meanwhile, as on joining
    here.fanout.write_results(members[-1], update(2))
    await delivering
    # Then the older one doesn't follow
    assert received(members[-1]) == [("vote-update", update(2))]
    assert received(members[-2]) == [("vote-update", update(1))]


@pytest.mark.proves("FR-035")
async def test_a_listener_that_was_cut_off_says_so_and_hears_again(here: Here, proxy: Proxy, redis_url: str) -> None:
    await here.listen()
    proxy.cut()
    await eventually(lambda: here.hearing == [True, False, True], "deaf, and hearing again")
    await hears_what_is_published(here, redis_url)


@pytest.mark.proves("FR-035", "FR-037")
async def test_after_a_long_outage_the_listener_hears_within_two_seconds(
    here: Here, proxy: Proxy, redis_url: str
) -> None:
    await here.listen()
    # Given an outage so long that pauses which double each time would have grown to many seconds
    proxy.go_away()
    await eventually(lambda: here.hearing == [True, False], "the listener to say that it is deaf")
    await eventually(lambda: proxy.refused >= 8, "eight tries")
    # When Redis is back, then so is the listener
    proxy.come_back()
    await eventually(lambda: here.hearing == [True, False, True], "the listener to hear", within_s=2)
    await hears_what_is_published(here, redis_url)


@pytest.mark.proves("FR-037")
async def test_a_listener_whose_redis_hangs_says_that_it_is_deaf(here: Here, proxy: Proxy, redis_url: str) -> None:
    await here.listen()
    # Given a connection that stays up and on which nothing comes any more
    proxy.hold_answers()
    await eventually(lambda: here.hearing == [True, False], "the listener to say that it is deaf")
    proxy.let_answers_through()
    await eventually(lambda: here.hearing[-1], "the listener to hear again")
    await hears_what_is_published(here, redis_url)


@pytest.mark.proves("FR-037")
@pytest.mark.parametrize(
    "break_link",
    [
        pytest.param(lambda proxy: proxy.cut_near_side("SUBSCRIBE"), id="this end dies alone"),
        pytest.param(lambda proxy: proxy.deafen("SUBSCRIBE"), id="nothing comes any more"),
    ],
)
async def test_a_listener_whose_connection_is_half_dead_makes_a_new_one(
    half_dead: HalfDeadProxy, behind_half_dead: Here, redis_url: str, break_link: Callable[[HalfDeadProxy], None]
) -> None:
    here = behind_half_dead
    await here.listen()
    break_link(half_dead)
    # On a busy machine it may be deaf once more
    await eventually(lambda: False in here.hearing and here.hearing[-1], "deaf, and hearing again")
    await hears_what_is_published(here, redis_url)


@pytest.mark.proves("FR-037")
async def test_a_listener_whose_pings_are_lost_sends_them_over_a_new_connection(
    half_dead: HalfDeadProxy, behind_half_dead: Here, redis_url: str
) -> None:
    here = behind_half_dead
    await here.listen()
    half_dead.mute("PUBLISH")
    # Then it hears on; whether it was deaf meanwhile depends on which came first, the next ping or the end of patience
    await eventually(lambda: half_dead.has_good("PUBLISH") and here.hearing[-1], "pings over a new connection")
    await hears_what_is_published(here, redis_url)


async def hears_what_is_published(here: Here, redis_url: str) -> None:
    manager = socketio.RedisManager(redis_url, channel=names.FANOUT_CHANNEL, write_only=True)
    news = uuid4().hex
    manager.emit("news", news, room=ROOM)
    await eventually(lambda: news in here.heard, "what a worker publishes")


async def test_a_very_large_room_has_a_longer_tick() -> None:
    # Given a room in which a tick takes more than a second by the number of its members
    settings = load()
    node = Node(settings)
    poll = PollSnapshot(1, ROOM, "Tea?", ("Yes",), PollState.OPEN, 1, (0,), False, 1, 1)
    room = node.rooms.add(poll)
    socket = add_member(node.server, names.poll_room(ROOM))
    room.sids.update(str(number) for number in range(round(1.5 / settings.room.tick_per_member_s)))
    assert settings.room.tick_s < 0.5
    # When two results come one after the other
    for version in (1, 2):
        node.screens.ticker.offer(ROOM, version, update(version))
    await eventually(lambda: socket.queue.qsize() == 1, "the first")
    began = time.monotonic()
    await eventually(lambda: socket.queue.qsize() == 2, "the second")
    # Then the second waits for the longer tick
    assert time.monotonic() - began > 1
    await node.redis.close()


async def test_a_listener_that_takes_its_cancelling_for_a_time_out_is_ended_all_the_same(redis_url: str) -> None:
    # Given a listener that listens on once, as Redis' client may make it do
    here = Here(redis_url)
    swallowed = asyncio.Event()

    async def listen_on() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    here.fanout.initialize()
    listener = here.fanout.thread
    here.fanout.thread = asyncio.create_task(listen_on())
    await asyncio.sleep(0)
    # When the fan-out is closed, then it doesn't wait for ever
    async with asyncio.timeout(20):
        await here.fanout.close()
    assert swallowed.is_set()
    here.fanout.thread = listener  # which may listen on once, too
    await here.fanout.close()
    await here.pipeline.close()
