"""Calls to Redis end, whatever Redis does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from uuid import uuid4

import msgspec
import pytest
import uvloop

from models.runtime.settings import RedisSettings, load
from models.wire import names
from scripts.stack.ports import LOOPBACK, any_free
from socket_tier.cache import Cache, RoomNotCached
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import CacheUnavailable
from tests.socket_tier.waiting import eventually


def settings(url: str) -> RedisSettings:
    return msgspec.structs.replace(load().redis, url=url)


def metrics() -> NodeMetrics:
    return NodeMetrics(load().metrics, "node", "test")


@pytest.fixture
async def pipeline(redis_url: str) -> AsyncIterator[RedisPipeline]:
    """To a database in which no node looks for dead ones."""
    pipeline = RedisPipeline(settings(redis_url.removesuffix("/0") + "/1"), metrics())
    yield pipeline
    await pipeline.close()


async def test_calls_made_together_are_answered_each(pipeline: RedisPipeline) -> None:
    key = f"test:{uuid4().hex}"
    answers = await asyncio.gather(*(pipeline.call("HSET", key, number, number) for number in range(1200)))
    assert answers == [1] * 1200
    assert await pipeline.call("HLEN", key) == 1200
    await pipeline.call("DEL", key)


async def test_a_refused_command_fails_alone(pipeline: RedisPipeline) -> None:
    good, bad = await asyncio.gather(pipeline.call("PING"), pipeline.call("NO-SUCH-COMMAND"), return_exceptions=True)
    assert isinstance(bad, CacheUnavailable)
    assert good in (b"PONG", True)


@pytest.mark.proves("FR-037", "FR-036")
async def test_a_hung_server_costs_the_deadline_once_and_then_nothing_for_a_while() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(4096):
            pass

    server = await asyncio.start_server(silent, LOOPBACK, any_free())
    patient = msgspec.structs.replace(
        settings(f"redis://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/0"), timeout_s=2
    )
    pipeline = RedisPipeline(patient, metrics())
    async with asyncio.timeout(30):
        with pytest.raises(CacheUnavailable):
            await pipeline.call("PING")
        started = asyncio.get_running_loop().time()
        with pytest.raises(CacheUnavailable):
            await pipeline.call("PING")
        assert asyncio.get_running_loop().time() - started < patient.timeout_s
    await pipeline.close()
    for writer in writers:
        writer.close()
    server.close()


def test_a_connection_that_is_reset_while_idle_leaves_nobody_waiting() -> None:
    """On uvloop, as in a node: redis-py lets through what uvloop raises then."""

    async def run() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while await reader.read(4096):
                writer.write(b"+PONG\r\n" * 3)

        server = await asyncio.start_server(answer, LOOPBACK, any_free())
        pipeline = RedisPipeline(settings(f"redis://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/0"), metrics())
        await asyncio.gather(pipeline.call("PING"), return_exceptions=True)
        for writer in writers:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await asyncio.sleep(0.1)
        ended = 0
        for _ in range(3):
            try:
                async with asyncio.timeout(10):
                    await pipeline.call("PING")
            except CacheUnavailable:
                await asyncio.sleep(0.2)
            ended += 1
        assert ended == 3
        await pipeline.close()
        for writer in writers:
            writer.close()
        server.close()

    uvloop.run(run())


async def test_a_close_never_makes_a_room_that_redis_has_not(pipeline: RedisPipeline) -> None:
    # Given an emptied Redis
    cache, code = Cache(pipeline, 600), "2" * 6
    await pipeline.call("DEL", names.room_key(code))
    # When a host closes a poll that this node has in memory
    await cache.note_closing(code, 1)
    # Then nobody can take a nickname in a room whose nicknames are not there
    with pytest.raises(RoomNotCached):
        await cache.take_nickname(code, "ada", uuid4(), 10, reserve_s=60)


async def test_a_dead_node_is_claimed_by_one_and_again_when_the_burial_fails(pipeline: RedisPipeline) -> None:
    cache, dead = Cache(pipeline, 600), uuid4()
    await pipeline.call("ZADD", names.NODES_ALIVE_KEY, 1, dead.hex)
    assert await cache.claim_dead_node(6, 0.3) == dead
    assert await cache.claim_dead_node(6, 0.3) != dead

    async def claimed_again() -> bool:
        return await cache.claim_dead_node(6, 0.3) == dead

    await eventually(claimed_again, "the lease to end")
    await cache.forget_node(dead)
    assert await cache.claim_dead_node(6, 0.3) != dead
