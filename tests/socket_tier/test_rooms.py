"""Rooms that a node knows: a poll whose retention is over is known no more, and its code may stand for another."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from models.runtime.settings import load
from models.wire import names
from models.wire.commands import RestoreRoom
from models.wire.notices import RoomRestored
from models.wire.polls import PollSnapshot, PollState
from socket_tier.cache import Cache
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import Invalid
from socket_tier.rooms import Rooms
from socket_tier.vote_buffer import now_us

DAY_US = 86_400_000_000
CODE = "QWERT2"


class Workers:
    """Answer requests to restore a room with what the database has."""

    def __init__(self) -> None:
        self.poll: PollSnapshot | None = None

    async def request(self, command: RestoreRoom, request_id: UUID) -> RoomRestored:
        return RoomRestored(request_id, self.poll)


def poll(poll_id: int, expires_at_us: int) -> PollSnapshot:
    return PollSnapshot(
        poll_id=poll_id, room_code=CODE, question="Tea?", options=("yes", "no"), state=PollState.OPEN, version=poll_id,
        votes=(0, 0), final=False, created_at_us=1, state_changed_at_us=poll_id, expires_at_us=expires_at_us,
    )  # fmt: skip


@pytest.fixture
async def pipeline(redis_url: str) -> AsyncIterator[RedisPipeline]:
    """To a database in which no node looks for rooms."""
    settings = msgspec.structs.replace(load().redis, url=redis_url.removesuffix("/0") + "/1")
    pipeline = RedisPipeline(settings, NodeMetrics(load().metrics, "node", "test"))
    await pipeline.call("DEL", names.room_key(CODE))
    yield pipeline
    await pipeline.call("DEL", names.room_key(CODE))
    await pipeline.close()


@pytest.mark.proves("FR-005")
async def test_a_room_whose_polls_retention_is_over_is_read_anew_and_may_be_another_polls(
    pipeline: RedisPipeline,
) -> None:
    settings, workers = load(), Workers()
    metrics = NodeMetrics(settings.metrics, "node", "test")
    rooms = Rooms(
        Cache(pipeline, 60), cast(Any, workers), uuid4(), settings.room, Limits(settings.limits, metrics), metrics
    )
    # Given a poll that is over, in this node's memory, with somebody in it, and in Redis
    over = poll(1, now_us() - 1)
    old = rooms.add(over)
    old.members[uuid4()] = cast(Any, SimpleNamespace())
    await pipeline.call("HSET", names.room_key(CODE), "version", 1, "snapshot", msgspec.json.encode(over))
    # Then nobody is let in any more
    with pytest.raises(Invalid, match="Poll not found"):
        await rooms.find(CODE)
    rooms._missing.clear()
    # And when another poll has got the code, then its room is a new one
    workers.poll = poll(2, now_us() + DAY_US)
    new = await rooms.find(CODE)
    assert (new.poll.poll_id, new.members, old.poll.poll_id) == (2, {}, 1)
    # Into which news of the old one doesn't come, nor the other way round
    assert not new.learn(msgspec.structs.replace(over, state=PollState.CLOSED, state_changed_at_us=9))
    assert new.state is PollState.OPEN
    assert await rooms.find(CODE) is new
