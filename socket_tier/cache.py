"""The node's reads and writes in Redis: snapshots, nicknames, choices, presence, browser roles.

Everything here can be rebuilt. Each call has a deadline; a failure is CacheUnavailable and is counted, and the caller
decides what goes on without.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from models.runtime.live_settings import Changes
from models.wire import names
from models.wire.choices import STORE_CHOICES, packed, refused_field
from models.wire.loads import NodeLoad, SharedTime
from models.wire.nicknames import HOLD_NICKNAMES, NICKNAMES_OUTLIVE_S
from models.wire.polls import BrowserRole, PollSnapshot
from socket_tier.redis_pipeline import RedisPipeline, Script
from socket_tier.refusals import CacheUnavailable

# Reserves a nickname for a participant. KEYS: room, nicknames, choices, reserved, heard, since. ARGV: nickname key,
# participant, limit, seconds to live, milliseconds that the reservation lasts, milliseconds that nodes have to put back
# what an emptied Redis lacks.
# Answers 1 taken by this participant, 0 held by another, -1 the room isn't in the cache, -2 the room is full, -3 that
# depends on a reservation, -4 nodes may still put nicknames back.
# The room's existence is checked in the same step: in an emptied cache every nickname would look free.
# A reservation is over when every node has told what it knew after the deadline: a node that Redis was away from must
# first be able to say that the participant is registered. Ten minutes later it is over in any case.
_TAKE_NICKNAME = Script("""
local room = redis.call('HMGET', KEYS[1], 'version', 'restored')
if not room[1] then return -1 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if room[2] then
  redis.call('SET', KEYS[6], now, 'NX')
  if now - redis.call('GET', KEYS[6]) < tonumber(ARGV[6]) then return -4 end
end
local function over(deadline)
  if deadline > now then return false end
  local silent = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return not silent[2] or deadline <= tonumber(silent[2]) or deadline + 600000 < now
end
local function free(participant, nickname)
  if redis.call('HGET', KEYS[2], nickname) == participant then redis.call('HDEL', KEYS[2], nickname) end
  redis.call('HDEL', KEYS[3], participant)
  redis.call('HDEL', KEYS[4], participant)
end
local function free_all()
  local flat, first = redis.call('HGETALL', KEYS[4]), nil
  for i = 1, #flat, 2 do
    local deadline, nickname = string.match(flat[i + 1], '^(%d+) (.*)$')
    if deadline and over(tonumber(deadline)) then
      free(flat[i], nickname)
    elseif deadline then
      first = math.min(first or tonumber(deadline), tonumber(deadline))
    end
  end
  if first then redis.call('HSET', KEYS[4], '-', first) else redis.call('HDEL', KEYS[4], '-') end
end
local function reserved(participant)
  local known = redis.call('HGET', KEYS[4], participant)
  return known and tonumber(string.match(known, '^%d+'))
end
local holder = redis.call('HGET', KEYS[2], ARGV[1])
if holder and holder ~= ARGV[2] then
  local deadline = reserved(holder)
  if not deadline then return 0 end
  if not over(deadline) then return -3 end
  free(holder, ARGV[1])
  holder = false
end
if not holder then
  local limit = tonumber(ARGV[3])
  if redis.call('HLEN', KEYS[2]) >= limit then
    if over(tonumber(redis.call('HGET', KEYS[4], '-')) or math.huge) then free_all() end
  end
  local taken = redis.call('HLEN', KEYS[2])
  if taken >= limit then
    return taken - math.max(0, redis.call('HLEN', KEYS[4]) - 1) < limit and -3 or -2
  end
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
if not holder or reserved(ARGV[2]) then
  local deadline = now + ARGV[5]
  redis.call('HSET', KEYS[4], ARGV[2], string.format('%d %s', deadline, ARGV[1]))
  redis.call('HSETNX', KEYS[4], '-', deadline)
  redis.call('EXPIRE', KEYS[4], ARGV[4])
end
redis.call('HSETNX', KEYS[3], ARGV[2], '-1:0')
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
""")

# Ends reservations; whoever is registered keeps the nickname. KEYS: nicknames, choices, reserved. ARGV: nickname key,
# participant, ... and so on.
_RELEASE_NICKNAMES = Script("""
for i = 1, #ARGV, 2 do
  if redis.call('HDEL', KEYS[3], ARGV[i + 1]) == 1 then
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
    redis.call('HDEL', KEYS[2], ARGV[i + 1])
  end
end
""")

_HOLD_NICKNAMES = Script(HOLD_NICKNAMES)

# KEYS: heard, since. ARGV: node, 1 for one that has told everything. Answers 0 when the node isn't known.
_NICKNAMES_TOLD = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[2], now, 'NX')
if ARGV[2] == '1' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  return 1
end
return redis.call('ZADD', KEYS[1], 'XX', 'CH', now, ARGV[1])
""")

_STORE_CHOICES = Script(STORE_CHOICES)

# Stores changed settings over those that are expected there. KEYS: settings. ARGV: version expected, version, values,
# levels.
_STORE_SETTINGS = Script("""
if tonumber(redis.call('HGET', KEYS[1], 'version') or '0') ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'values', ARGV[3], 'levels', ARGV[4])
return 1
""")

# Marks a participant as connected on a node. KEYS: node's own, present. ARGV: field, participant, nickname, seconds
# to live.
# Answers {1 when nobody had it connected before, participants present}. Harmless when repeated.
_ARRIVE = Script("""
local net = 0
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) == 1 then
  if redis.call('HINCRBY', KEYS[2], ARGV[2], 1) == 1 then net = 1 end
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return {net, redis.call('HLEN', KEYS[2])}
""")

_LEAVE = Script("""
local net = 0
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  if redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
    redis.call('HDEL', KEYS[2], ARGV[2])
    net = 1
  end
end
return {net, redis.call('HLEN', KEYS[2])}
""")


# Presence goes by Redis' clock alone, so that no machine's matters.
_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

# KEYS: nodes alive. ARGV: node.
_BEAT = Script(_NOW + "return redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])")

# KEYS: nodes alive. ARGV: seconds of silence, seconds that a claimed node is its claimant's.
_CLAIM_DEAD_NODE = Script(
    _NOW
    + """
local since = now - tonumber(ARGV[1])
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', since), 'LIMIT', 0, 1)
if not silent[1] then return false end
redis.call('ZADD', KEYS[1], string.format('%.6f', since + tonumber(ARGV[2])), silent[1])
return silent[1]
"""
)


# KEYS: room, present.
_READ_ROOM = Script("""
local room = redis.call('HMGET', KEYS[1], 'snapshot', 'closing_us')
return {room[1], room[2], redis.call('HLEN', KEYS[2])}
""")

# KEYS: room, present. ARGV: the version that is known; nothing when it is the newest.
_READ_NEWER = Script("""
local version = redis.call('HGET', KEYS[1], 'version')
if not version or tonumber(version) <= tonumber(ARGV[1]) then return false end
local room = redis.call('HMGET', KEYS[1], 'snapshot', 'closing_us')
return {room[1], room[2], redis.call('HLEN', KEYS[2])}
""")

# KEYS: room. ARGV: closing_us. A room that isn't there must not come to exist without its nicknames; of several closes
# the latest is remembered.
_NOTE_CLOSING = Script("""
if redis.call('HEXISTS', KEYS[1], 'version') == 0 then return end
local known = tonumber(redis.call('HGET', KEYS[1], 'closing_us') or '0')
if known < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'closing_us', ARGV[1]) end
""")

# KEYS: a hash. ARGV: seconds to live, field, value, ... and so on.
_STORE_FIELDS = Script("""
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
""")


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


class NicknameUndecided(Exception):
    """Somebody else is about to have it, or the last place; that may fail."""


class RoomNotCached(Exception):
    """Redis doesn't know the room; a worker has to restore it first."""


class NicknamesUnsettled(CacheUnavailable):
    """Redis was emptied a moment ago: nodes may still have to put this room's nicknames back."""


_NOT_TAKEN = {0: NicknameTaken, -1: RoomNotCached, -2: RoomFull, -3: NicknameUndecided, -4: NicknamesUnsettled}

_snapshot = msgspec.json.Decoder(PollSnapshot)
_shared_time = msgspec.json.Decoder(SharedTime)
_role = msgspec.json.Decoder(BrowserRole)


def _cached_room(answers: tuple[bytes | None, bytes | None, int]) -> CachedRoom | None:
    snapshot, closing, present = answers
    return None if snapshot is None else CachedRoom(_snapshot.decode(snapshot), int(closing or 0), present)


class Cache:
    """One per node."""

    def __init__(self, pipeline: RedisPipeline, room_ttl_s: int) -> None:
        self._room_ttl_s = room_ttl_s
        self._nicknames_ttl_s = room_ttl_s + NICKNAMES_OUTLIVE_S
        self._call = pipeline.call

    async def ping_ms(self) -> float:
        started = time.perf_counter()
        await self._call("PING")
        return (time.perf_counter() - started) * 1000

    async def room(self, room_code: str) -> CachedRoom | None:
        """:raises CacheUnavailable:"""
        return _cached_room(
            await self._call(2, names.room_key(room_code), names.present_key(room_code), script=_READ_ROOM)
        )

    async def newer_room(self, room_code: str, version: int) -> CachedRoom | None:
        """A room of which Redis has a newer version than the one that is known.

        :raises CacheUnavailable:
        """
        keys = (names.room_key(room_code), names.present_key(room_code))
        answers = await self._call(2, *keys, version, script=_READ_NEWER)
        return _cached_room(answers) if answers else None

    async def note_closing(self, room_code: str, at_us: int) -> None:
        """Remember a close that is durable at the broker, for nodes that learn of the room later."""
        await self._call(1, names.room_key(room_code), at_us, script=_NOTE_CLOSING)

    async def take_nickname(
        self,
        room_code: str,
        nickname_key: str,
        participant_id: UUID,
        limit: int,
        *,
        reserve_s: float,
        settle_s: float = 0,
    ) -> None:
        """Reserve a nickname for ``reserve_s`` seconds, at least. In a room that was restored nobody gets one before
        nodes had ``settle_s`` seconds to put back what Redis has lost.

        :raises NicknameTaken, RoomFull, NicknameUndecided, RoomNotCached, CacheUnavailable:
        """
        of_room = (names.room_key, names.nicknames_key, names.choices_key, names.reserved_key)
        keys = (*(key(room_code) for key in of_room), names.NICKNAMES_HEARD_KEY, names.NICKNAMES_SINCE_KEY)
        times_ms = (round(reserve_s * 1000), round(settle_s * 1000))
        answer = await self._call(
            6, *keys, nickname_key, participant_id.hex, limit, self._room_ttl_s, *times_ms, script=_TAKE_NICKNAME
        )
        if answer != 1:
            raise _NOT_TAKEN[answer]()

    async def release_nicknames(self, room_code: str, nicknames: Iterable[tuple[str, UUID]]) -> None:
        """Give back (nickname key, participant) that were reserved for joins that failed."""
        keys = (names.nicknames_key(room_code), names.choices_key(room_code), names.reserved_key(room_code))
        await self._call(3, *keys, *_flat(nicknames), script=_RELEASE_NICKNAMES)

    async def hold_nicknames(self, room_code: str, nicknames: Iterable[tuple[str, UUID]]) -> None:
        """These participants, (nickname key, participant), are registered: theirs is no reservation any more."""
        keys = (names.nicknames_key(room_code), names.reserved_key(room_code))
        await self._call(2, *keys, self._nicknames_ttl_s, *_flat(nicknames), script=_HOLD_NICKNAMES)

    async def nicknames_told(self, node_id: UUID, *, all_of_them: bool = False) -> bool:
        """Say that Redis has been told of all of this node's nicknames that had been registered by now.

        False when Redis doesn't know the node: it may lack those of before as well. ``all_of_them``: it doesn't.
        """
        keys = (names.NICKNAMES_HEARD_KEY, names.NICKNAMES_SINCE_KEY)
        return bool(await self._call(2, *keys, node_id.hex, int(all_of_them), script=_NICKNAMES_TOLD))

    async def choice(self, room_code: str, participant_id: UUID) -> tuple[StoredChoice | None, int]:
        """A participant's last acked choice, None when Redis doesn't know whether there is one; and the seq of the
        latest vote that was refused, 0 without one."""
        participant = participant_id.hex
        key = names.choices_key(room_code)
        stored, refused = await self._call("HMGET", key, participant, refused_field(participant))
        if stored is None:
            return None, int(refused or 0)
        option, seq = stored.decode().split(":")
        return StoredChoice(None if option == "-1" else int(option), int(seq)), int(refused or 0)

    async def store_choices(self, room_code: str, choices: Sequence[tuple[str, int, int]]) -> None:
        """Participant's id in hex, option (-1 for none) and seq each. An older choice never replaces a newer one. With
        ``NOT_COUNTED`` for an option nothing is believed up to that seq, so that the next resume asks the database.
        """
        key = names.choices_key(room_code)
        await self._call(1, key, self._room_ttl_s, packed(choices), 1, script=_STORE_CHOICES)

    async def arrive(self, node_id: UUID, room_code: str, participant_id: UUID, nickname: str) -> tuple[bool, int]:
        """Count a participant in; whether that is news, and how many are present."""
        return await self._presence(_ARRIVE, node_id, room_code, participant_id, nickname)

    async def leave(self, node_id: UUID, room_code: str, participant_id: UUID) -> tuple[bool, int]:
        """Count a participant out; whether that is news, and how many are present."""
        return await self._presence(_LEAVE, node_id, room_code, participant_id, "")

    async def node_members(self, node_id: UUID) -> list[tuple[str, UUID, str]]:
        """Room code, participant and nickname of everybody whom one node has counted in."""
        fields = await self._fields(names.node_present_key(node_id))
        members = []
        for field, nickname in fields.items():
            code, participant = field.decode().split(":")
            members.append((code, UUID(hex=participant), nickname.decode()))
        return members

    async def time(self) -> tuple[int, SharedTime | None]:
        """Redis' clock, in microseconds since the epoch, and what workers say of it; None when none ever did.

        :raises CacheUnavailable:
        """
        # Both in one round trip.
        (seconds, microseconds), told = await asyncio.gather(self._call("TIME"), self._call("GET", names.CLOCK_KEY))
        return int(seconds) * 1_000_000 + int(microseconds), None if told is None else _shared_time.decode(told)

    async def changed_settings(self) -> Changes:
        """What operators have changed for all processes."""
        return Changes.decode(await self._fields(names.SETTINGS_KEY))

    async def store_changed_settings(self, changes: Changes, *, over: int) -> bool:
        """Store them in the place of version ``over`` (0: of none); False when another one is there."""
        fields = (msgspec.json.encode(changes.values), msgspec.json.encode(changes.levels))
        return bool(await self._call(1, names.SETTINGS_KEY, over, changes.version, *fields, script=_STORE_SETTINGS))

    async def heartbeat(self, node_id: UUID) -> bool:
        """Say that this node lives; True when Redis didn't know of it, so that it lacks our members too."""
        return bool(await self._call(1, names.NODES_ALIVE_KEY, node_id.hex, script=_BEAT))

    async def tell_load(self, node_id: UUID, load: NodeLoad, timeout_s: float) -> None:
        """Say how much this node has to do; forgotten after ``timeout_s`` without another word."""
        milliseconds = round(timeout_s * 1000)
        await self._call("SET", names.node_load_key(node_id), msgspec.json.encode(load), "PX", milliseconds)

    async def claim_dead_node(self, timeout_s: float, lease_s: float) -> UUID | None:
        """A node silent for longer than ``timeout_s``, for one caller alone during ``lease_s``; None without one.

        The caller counts its members out and then forgets it; one that fails leaves it to the next.
        """
        silent = await self._call(1, names.NODES_ALIVE_KEY, timeout_s, lease_s, script=_CLAIM_DEAD_NODE)
        return UUID(hex=silent.decode()) if silent else None

    async def forget_node(self, node_id: UUID) -> None:
        await self._call("DEL", names.node_present_key(node_id))
        await self._call("ZREM", names.NICKNAMES_HEARD_KEY, node_id.hex)
        await self._call("ZREM", names.NODES_ALIVE_KEY, node_id.hex)

    async def claim_room(self, room_code: str, browser_id: UUID, ttl_s: int) -> bool:
        """Whether this browser holds the claim on a room; the first to ask does."""
        key = names.claim_key(room_code)
        # Not SET with GET: redis-py would turn the holder that it returns into False.
        if await self._call("SET", key, browser_id.hex, "NX", "EX", ttl_s):
            return True
        holder = await self._call("GET", key)
        return holder is not None and holder.decode() == browser_id.hex

    async def browser_roles(self, browser_id: UUID) -> list[BrowserRole] | None:
        """What a cookie stands for; None when Redis doesn't know."""
        fields = await self._fields(names.browser_key(browser_id))
        if fields.pop(names.BROWSER_COMPLETE.encode(), None) is None:
            return None
        return [_role.decode(value) for value in fields.values()]

    async def known_browser_roles(self, browser_id: UUID) -> list[BrowserRole]:
        """As much as Redis knows of what a cookie stands for."""
        fields = await self._fields(names.browser_key(browser_id))
        return [_role.decode(value) for field, value in fields.items() if field != names.BROWSER_COMPLETE.encode()]

    async def add_browser_role(self, browser_id: UUID, role: BrowserRole, *, complete: bool) -> None:
        """``complete``: the browser is new, so what Redis holds is all there is."""
        key = names.browser_key(browser_id)
        fields: list[Any] = [names.browser_field(role.room_code, role.participant_id), msgspec.json.encode(role)]
        if complete:
            fields += [names.BROWSER_COMPLETE, ""]
        await self._call(1, key, self._room_ttl_s, *fields, script=_STORE_FIELDS)

    async def _fields(self, key: str) -> dict[bytes, bytes]:
        flat = await self._call("HGETALL", key)
        return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))

    async def _presence(
        self, script: Script, node_id: UUID, room_code: str, participant_id: UUID, nickname: str
    ) -> tuple[bool, int]:
        keys = (names.node_present_key(node_id), names.present_key(room_code))
        arguments = (f"{room_code}:{participant_id.hex}", participant_id.hex, nickname, self._room_ttl_s)
        net, present = await self._call(2, *keys, *arguments, script=script)
        return bool(net), present


def _flat(nicknames: Iterable[tuple[str, UUID]]) -> Iterator[str]:
    for nickname_key, participant_id in nicknames:
        yield nickname_key
        yield participant_id.hex
