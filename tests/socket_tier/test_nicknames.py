"""Who has a nickname, and one of a limited number of places, when a node, Redis or an answer is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import msgspec
import pytest

from models.runtime.settings import load
from models.wire import names
from socket_tier.cache import (
    Cache,
    NicknamesUnsettled,
    NicknameTaken,
    NicknameUndecided,
    RoomFull,
)
from socket_tier.metrics import NodeMetrics
from socket_tier.nicknames import Nickname, Nicknames
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import CacheUnavailable
from tests.socket_tier.proxy import Proxy
from tests.socket_tier.waiting import eventually

CODE = "NAMES2"
_MOST = 100
_LONG_S = 3600.0
_SHORT_S = 0.1


@pytest.fixture
async def pipeline(redis_url: str) -> AsyncIterator[RedisPipeline]:
    """To a database in which no node is, with one room."""
    settings = msgspec.structs.replace(load().redis, url=redis_url.removesuffix("/0") + "/2")
    pipeline = RedisPipeline(settings, NodeMetrics(load().metrics, "node", "test"))
    await emptied(pipeline)
    await pipeline.call("HSET", names.room_key(CODE), "version", 1)
    yield pipeline
    await emptied(pipeline)
    await pipeline.close()


async def emptied(pipeline: RedisPipeline) -> None:
    of_room = (names.room_key, names.nicknames_key, names.choices_key, names.reserved_key)
    for key in (*(key(CODE) for key in of_room), names.NICKNAMES_HEARD_KEY, names.NICKNAMES_SINCE_KEY):
        await pipeline.call("DEL", key)


class Node:
    """One node's nicknames; it says nothing to Redis but by ``tell``."""

    def __init__(self, pipeline: RedisPipeline, reserve_s: float = _LONG_S, settle_s: float = 0) -> None:
        self.id = uuid4()
        self.cache = Cache(pipeline, 600)
        metrics = NodeMetrics(load().metrics, "node", "test")
        self.nicknames = Nicknames(self.cache, self.id, metrics, reserve_s=reserve_s, settle_s=settle_s)

    async def tell(self) -> None:
        self.nicknames._tell_at = 0
        assert await self.nicknames.write()

    async def reserve(self, key: str, limit: int = _MOST) -> Nickname:
        nickname = Nickname(CODE, key, uuid4())
        await self.nicknames.reserve(nickname, limit)
        return nickname

    async def registered(self, key: str, limit: int = _MOST) -> Nickname:
        """As far as this node knows: Redis has not heard of it."""
        nickname = await self.reserve(key, limit)
        self.nicknames.hold(nickname)
        return nickname

    async def can_reserve(self, key: str, limit: int = _MOST) -> bool:
        """Having told Redis what it knows."""
        await self.tell()
        try:
            await self.reserve(key, limit)
        except NicknameUndecided:
            return False
        return True


async def holder(pipeline: RedisPipeline, key: str) -> UUID | None:
    known = await pipeline.call("HGET", names.nicknames_key(CODE), key)
    return UUID(hex=known.decode()) if known else None


async def test_what_a_killed_node_has_reserved_is_free_again_when_it_is_buried(pipeline: RedisPipeline) -> None:
    # Given the last place of a room, reserved by a node that is killed before it could register anybody
    killed, other = Node(pipeline, _SHORT_S), Node(pipeline)
    await killed.tell()
    await other.tell()
    await killed.reserve("ada", limit=1)
    # When others come, before and after the reservation's time
    await asyncio.sleep(2 * _SHORT_S)
    await other.tell()
    # Then they are told to come again, as long as the node may have something to say
    for key in ("ada", "bo"):
        with pytest.raises(NicknameUndecided):
            await other.reserve(key, limit=1)
    await other.cache.forget_node(killed.id)
    assert await other.can_reserve("bo", limit=1)
    assert await holder(pipeline, "ada") is None


async def test_a_reserved_nickname_is_free_again_when_nobody_is_registered_with_it(pipeline: RedisPipeline) -> None:
    # Given a node that lives, and never gets an answer from the broker
    node, other = Node(pipeline, _SHORT_S), Node(pipeline)
    await node.tell()
    node.nicknames.leave_open(await node.reserve("ada"))
    with pytest.raises(NicknameUndecided):
        await other.reserve("ada")

    # Then its nickname is somebody else's after a while
    async def free() -> bool:
        await node.tell()
        return await other.can_reserve("ada")

    await eventually(free, "the end of the reservation")


async def test_who_is_registered_keeps_the_nickname_after_the_reservation(pipeline: RedisPipeline) -> None:
    node, other = Node(pipeline, _SHORT_S), Node(pipeline)
    await node.registered("ada", limit=1)
    await node.tell()
    await asyncio.sleep(2 * _SHORT_S)
    await node.tell()
    with pytest.raises(NicknameTaken):
        await other.reserve("ada", limit=1)
    with pytest.raises(RoomFull):
        await other.reserve("bo", limit=1)


async def test_redis_away_beyond_the_reservations_time_costs_nobody_the_nickname(pipeline: RedisPipeline) -> None:
    # Given somebody who is registered, and Redis, which was away for long and has not been told
    node, other = Node(pipeline, _SHORT_S), Node(pipeline)
    await node.tell()
    await node.registered("ada")
    await asyncio.sleep(2 * _SHORT_S)
    # When another node is the first to come back to it
    assert not await other.can_reserve("ada")
    # Then it gets no answer before the node that knows has told
    await node.tell()
    with pytest.raises(NicknameTaken):
        await other.reserve("ada")


async def test_a_nickname_is_released_by_its_holder_alone_and_never_once_it_is_registered(
    pipeline: RedisPipeline,
) -> None:
    node, other = Node(pipeline), Node(pipeline)
    ada = await node.reserve("ada")
    # When somebody else's join fails, and one that came late to a nickname that a worker has registered
    other.nicknames.release(Nickname(CODE, "ada", uuid4()))
    await other.tell()
    assert await holder(pipeline, "ada") == ada.participant_id
    bo = await node.registered("bo")
    await node.tell()
    other.nicknames.release(bo)  # by a node that would not put it back
    other.nicknames.release(ada)
    await other.tell()
    # Then only what was reserved is free
    assert await holder(pipeline, "bo") == bo.participant_id
    assert await other.can_reserve("ada")


async def test_an_emptied_redis_gets_back_what_is_acked_and_not_yet_stored(pipeline: RedisPipeline) -> None:
    # Given a full room, whose two participants wait in the queue; a third is stored
    node, other = Node(pipeline, settle_s=_LONG_S), Node(pipeline, settle_s=_LONG_S)
    await node.tell()
    ada, bo, cy = [await node.registered(key, limit=3) for key in ("ada", "bo", "cy")]
    await node.tell()
    node.nicknames.stored([cy.participant_id])
    # When Redis is emptied, and a worker restores the room with what the database has: nobody
    await emptied(pipeline)
    await pipeline.call("HSET", names.room_key(CODE), "version", 1, "restored", 1)
    # Then nobody new gets in before nodes had time
    with pytest.raises(NicknamesUnsettled):
        await other.reserve("ada", limit=2)
    # And afterwards names and limit are as before
    await node.tell()
    node.nicknames._settle_s = other.nicknames._settle_s = 0
    assert [await holder(pipeline, key) for key in ("ada", "bo", "cy")] == [ada.participant_id, bo.participant_id, None]
    with pytest.raises(NicknameTaken):
        await other.reserve("ada", limit=2)
    with pytest.raises(RoomFull):
        await other.reserve("dee", limit=2)


async def test_a_room_that_is_restored_when_all_nodes_have_long_told_takes_newcomers_at_once(
    pipeline: RedisPipeline,
) -> None:
    node = Node(pipeline, settle_s=_SHORT_S)
    await node.tell()
    await asyncio.sleep(2 * _SHORT_S)
    await pipeline.call("HSET", names.room_key(CODE), "restored", 1)
    await node.reserve("ada")


async def test_nothing_is_kept_of_who_is_stored_before_the_confirm_comes(pipeline: RedisPipeline) -> None:
    node = Node(pipeline)
    ada = await node.reserve("ada")
    node.nicknames.stored([ada.participant_id])
    node.nicknames.hold(ada)
    assert not node.nicknames._unstored and not node.nicknames._to_hold


async def test_a_released_nickname_is_released_when_redis_is_back(pipeline: RedisPipeline) -> None:
    # Given a join whose answer from Redis was lost, and calls that fail for a while
    node, other = Node(pipeline), Node(pipeline)
    ada = await node.reserve("ada")
    node.nicknames.release(ada)
    pipeline._closed_until = asyncio.get_running_loop().time() + _LONG_S
    assert not await node.nicknames.write()
    pipeline._closed_until = 0
    # When it is back
    running = asyncio.create_task(node.nicknames.run())

    async def free() -> bool:
        return await holder(pipeline, "ada") is None

    # Then the nickname is free long before the end of its reservation
    await eventually(free, "the release")
    assert await other.can_reserve("ada")
    running.cancel()


async def test_a_join_whose_answer_from_redis_was_lost_gives_its_name_back(
    pipeline: RedisPipeline, redis_url: str
) -> None:
    # Given a node that Redis' answers don't reach
    proxy = Proxy(redis_url.removesuffix("/0") + "/2")
    await proxy.start()
    settings = msgspec.structs.replace(load().redis, url=proxy.url)
    far = RedisPipeline(settings, NodeMetrics(load().metrics, "node", "test"))
    node = Node(far)
    await node.tell()
    proxy.hold_answers()
    # When Redis takes a name for it
    with pytest.raises(CacheUnavailable):
        await node.reserve("ada")
    assert await holder(pipeline, "ada") is not None
    proxy.let_answers_through()
    # Then the node gives it back as soon as it can
    await eventually(node.nicknames.write, "the release")
    assert await holder(pipeline, "ada") is None
    await far.close()
    await proxy.stop()
