"""What a version before has put into Redis reaches the browsers of a node of today."""

from __future__ import annotations

import msgspec
import pytest
import redis

from models.wire import names
from tests.models.wire.frozen import frozen
from tests.socket_tier.browsers import Browser
from tests.socket_tier.rest import Poll, Rest

CODE = b"ABC234"  # in all frozen messages
PARTICIPANT = "0198c2a000007000800000000000000c"
UNUSED_CODE = "ZZZZ99"


@pytest.fixture
def cache(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.mark.proves("FR-027")
async def test_what_a_version_before_emits_is_shown(browser: Browser, poll: Poll, cache: redis.Redis) -> None:
    # Given a participant
    joined = await browser.join(poll.code, "Grace")
    for line in frozen("emits"):
        # When a worker or node of before emits something
        message = line.replace(CODE, poll.code.encode())
        message = message.replace(PARTICIPANT.encode(), joined["participantId"].replace("-", "").encode())
        cache.publish(names.FANOUT_CHANNEL, message)
        # Then it is shown as it is
        said = msgspec.json.decode(message)
        assert said["data"] == [await browser.hears(said["event"], **said["data"][0])]


@pytest.mark.proves("FR-027")
async def test_a_room_that_a_version_before_has_stored_is_known(rest: Rest, cache: redis.Redis) -> None:
    for line in frozen("snapshots"):
        snapshot = line.replace(CODE, UNUSED_CODE.encode())
        said = msgspec.json.decode(snapshot)
        cache.hset(names.room_key(UNUSED_CODE), mapping={"version": said["version"], "snapshot": snapshot})
        try:
            told = await rest.read(Poll(UNUSED_CODE, "", []))
        finally:
            cache.delete(names.room_key(UNUSED_CODE))
        assert {name: told[name] for name in ("question", "options", "state", "votes", "version", "final")} == {
            name: said[name] for name in ("question", "options", "state", "votes", "version", "final")
        }
