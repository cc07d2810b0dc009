"""The node's reads and writes in Redis: snapshots, nicknames, choices, presence, browser roles.

Everything here can be rebuilt. Each call has a deadline; a failure is CacheUnavailable and is counted, and the caller
decides what goes on without.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import BlockingConnectionPool
from redis.exceptions import RedisError

from models.runtime.settings import RedisSettings
from models.wire import names
from models.wire.polls import BrowserRole, PollSnapshot
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable

# Takes a nickname for a participant. KEYS: room, nicknames, choices, present. ARGV: nickname key, participant, limit.
# Answers 1 taken by this participant, 0 held by another, -1 the room isn't in the cache, -2 the room is full.
# The room's existence is checked in the same step: in an emptied cache every nickname would look free.
_TAKE_NICKNAME = """
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local holder = redis.call('HGET', KEYS[2], ARGV[1])
if holder and holder ~= ARGV[2] then return 0 end
if not holder then
  if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then return -2 end
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
redis.call('HSETNX', KEYS[3], ARGV[2], '-1:0')
return 1
"""

# Stores choices unless a newer one is there. KEYS: choices. ARGV: participant, option, seq, ... and so on.
_STORE_CHOICES = """
for i = 1, #ARGV, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  local seq = stored and tonumber(string.match(stored, ':(%d+)')) or -1
  if seq < tonumber(ARGV[i + 2]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ':' .. ARGV[i + 2])
  end
end
"""

# Marks a participant as connected on a node. KEYS: node's own, present. ARGV: field, participant, nickname.
# Answers {1 when nobody had it connected before, participants present}. Harmless when repeated.
_ARRIVE = """
local net = 0
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) == 1 then
  if redis.call('HINCRBY', KEYS[2], ARGV[2], 1) == 1 then net = 1 end
end
return {net, redis.call('HLEN', KEYS[2])}
"""

_LEAVE = """
local net = 0
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  if redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
    redis.call('HDEL', KEYS[2], ARGV[2])
    net = 1
  end
end
return {net, redis.call('HLEN', KEYS[2])}
"""


_PAUSE_AFTER_FAILURE_S = 0.5


class CachedRoom(NamedTuple):
    """A room as Redis has it. ``closing_us`` is a close that no worker has applied yet, 0 without one."""

    poll: PollSnapshot
    closing_us: int
    participant_count: int


class StoredChoice(NamedTuple):
    """``option_index`` is None before the first vote."""

    option_index: int | None
    seq: int


class NicknameTaken(Exception):
    """Somebody else has it."""


class RoomFull(Exception):
    """The room has as many participants as the settings allow."""


class RoomNotCached(Exception):
    """Redis doesn't know the room; a worker has to restore it first."""


_snapshot = msgspec.json.Decoder(PollSnapshot)
_role = msgspec.json.Decoder(BrowserRole)


class Cache:
    """One per node."""

    def __init__(self, settings: RedisSettings, metrics: NodeMetrics) -> None:
        self._timeout_s = settings.timeout_s
        self._room_ttl_s = settings.room_ttl_s
        self._metrics = metrics
        pool = BlockingConnectionPool.from_url(
            settings.url,
            max_connections=20,
            timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            health_check_interval=0,
        )
        self.redis: Redis = Redis(connection_pool=pool)
        self._take_nickname = self.redis.register_script(_TAKE_NICKNAME)
        self._store_choices = self.redis.register_script(_STORE_CHOICES)
        self._arrive = self.redis.register_script(_ARRIVE)
        self._leave = self.redis.register_script(_LEAVE)
        self._closed_until = 0.0

    async def close(self) -> None:
        await self.redis.aclose()
        await self.redis.connection_pool.disconnect()

    async def ping_ms(self) -> float:
        started = time.perf_counter()
        await self._call(self.redis.ping())
        return (time.perf_counter() - started) * 1000

    async def room(self, room_code: str) -> CachedRoom | None:
        """:raises CacheUnavailable:"""
        pipe = self.redis.pipeline(transaction=False)
        pipe.hmget(names.room_key(room_code), "snapshot", "closing_us")
        pipe.hlen(names.present_key(room_code))
        (snapshot, closing), present = await self._call(pipe.execute())
        if snapshot is None:
            return None
        return CachedRoom(_snapshot.decode(snapshot), int(closing or 0), present)

    async def note_closing(self, room_code: str, at_us: int) -> None:
        """Remember a close that is durable at the broker, for nodes that learn of the room later."""
        await self._call(self.redis.hset(names.room_key(room_code), "closing_us", str(at_us)))

    async def take_nickname(self, room_code: str, nickname_key: str, participant_id: UUID, limit: int) -> None:
        """:raises NicknameTaken, RoomFull, RoomNotCached, CacheUnavailable:"""
        keys = [names.room_key(room_code), names.nicknames_key(room_code), names.choices_key(room_code)]
        answer = await self._call(self._take_nickname(keys, [nickname_key, participant_id.hex, limit]))
        if answer == 0:
            raise NicknameTaken
        if answer == -1:
            raise RoomNotCached
        if answer == -2:
            raise RoomFull

    async def nickname_holder(self, room_code: str, nickname_key: str) -> UUID | None:
        holder = await self._call(self.redis.hget(names.nicknames_key(room_code), nickname_key))
        return UUID(hex=holder.decode()) if holder else None

    async def choice(self, room_code: str, participant_id: UUID) -> StoredChoice | None:
        """A participant's last acked choice; None when Redis doesn't know whether there is one."""
        stored = await self._call(self.redis.hget(names.choices_key(room_code), participant_id.hex))
        if stored is None:
            return None
        option, seq = stored.decode().split(":")
        return StoredChoice(None if option == "-1" else int(option), int(seq))

    async def forget_choice(self, room_code: str, participant_id: UUID) -> None:
        """Have the next resume ask the database: what was acked turned out not to count."""
        await self._call(self.redis.hdel(names.choices_key(room_code), participant_id.hex))

    async def store_choices(self, room_code: str, choices: Sequence[tuple[UUID, int, int]]) -> None:
        """Participant, option (-1 for none) and seq each. An older choice never replaces a newer one."""
        arguments: list[Any] = []
        for participant_id, option, seq in choices:
            arguments += (participant_id.hex, option, seq)
        await self._call(self._store_choices([names.choices_key(room_code)], arguments))

    async def arrive(self, node_id: UUID, room_code: str, participant_id: UUID, nickname: str) -> tuple[bool, int]:
        """Count a participant in; whether that is news, and how many are present."""
        return await self._presence(self._arrive, node_id, room_code, participant_id, nickname)

    async def leave(self, node_id: UUID, room_code: str, participant_id: UUID) -> tuple[bool, int]:
        """Count a participant out; whether that is news, and how many are present."""
        return await self._presence(self._leave, node_id, room_code, participant_id, "")

    async def node_members(self, node_id: UUID) -> list[tuple[str, UUID, str]]:
        """Room code, participant and nickname of everybody whom one node has counted in."""
        fields = await self._call(self.redis.hgetall(names.node_present_key(node_id)))
        members = []
        for field, nickname in fields.items():
            code, participant = field.decode().split(":")
            members.append((code, UUID(hex=participant), nickname.decode()))
        return members

    async def heartbeat(self, node_id: UUID) -> bool:
        """Say that this node lives; True when Redis didn't know of it, so that it lacks our members too."""
        return bool(await self._call(self.redis.zadd(names.NODES_ALIVE_KEY, {node_id.hex: time.time()})))

    async def claim_dead_nodes(self, timeout_s: float) -> list[UUID]:
        """Nodes silent for longer than ``timeout_s``; each goes to one caller only, who counts its members out."""
        silent = await self._call(self.redis.zrangebyscore(names.NODES_ALIVE_KEY, 0, time.time() - timeout_s))
        return [UUID(hex=n.decode()) for n in silent if await self._call(self.redis.zrem(names.NODES_ALIVE_KEY, n))]

    async def forget_node(self, node_id: UUID) -> None:
        await self._call(self.redis.delete(names.node_present_key(node_id)))

    async def claim_room(self, room_code: str, browser_id: UUID, ttl_s: int) -> bool:
        """Whether this browser holds the claim on a room; the first to ask does."""
        key = names.claim_key(room_code)
        holder = await self._call(self.redis.set(key, browser_id.hex, nx=True, ex=ttl_s, get=True))
        return holder is None or holder.decode() == browser_id.hex

    async def browser_roles(self, browser_id: UUID) -> list[BrowserRole] | None:
        """What a cookie stands for; None when Redis doesn't know."""
        fields = await self._call(self.redis.hgetall(names.browser_key(browser_id)))
        if names.BROWSER_COMPLETE.encode() not in fields:
            return None
        return [_role.decode(value) for field, value in fields.items() if field != names.BROWSER_COMPLETE.encode()]

    async def add_browser_role(self, browser_id: UUID, role: BrowserRole, *, complete: bool) -> None:
        """``complete``: the browser is new, so what Redis holds is all there is."""
        key = names.browser_key(browser_id)
        fields: dict[Any, Any] = {names.browser_field(role.room_code, role.participant_id): msgspec.json.encode(role)}
        if complete:
            fields[names.BROWSER_COMPLETE] = b"1"
        pipe = self.redis.pipeline(transaction=False)
        pipe.hset(key, mapping=fields)
        pipe.expire(key, self._room_ttl_s)
        await self._call(pipe.execute())

    async def _presence(
        self, script: Any, node_id: UUID, room_code: str, participant_id: UUID, nickname: str
    ) -> tuple[bool, int]:
        keys = [names.node_present_key(node_id), names.present_key(room_code)]
        arguments = [f"{room_code}:{participant_id.hex}", participant_id.hex, nickname]
        net, present = await self._call(script(keys, arguments))
        return bool(net), present

    async def _call(self, call: Any) -> Any:
        """:raises CacheUnavailable: also when Redis hangs in mid-answer; at once for a moment after a failure"""
        if time.monotonic() < self._closed_until:
            call.close()  # a coroutine that is never awaited
            raise CacheUnavailable()
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                answer = await call
        except (RedisError, OSError, TimeoutError) as error:
            # A hung Redis costs a time-out each: with a pause after a failure it costs few, and the heartbeat probes.
            self._closed_until = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            self._metrics.count("cache.failed")
            raise CacheUnavailable() from error
        return answer
