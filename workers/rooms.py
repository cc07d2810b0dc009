"""Rooms in Redis: snapshots with compare-and-set, nicknames, browsers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

import msgspec
import redis

from models.runtime.live_settings import Changes
from models.wire import names
from models.wire.choices import STORE_CHOICES, packed
from models.wire.commands import Registration
from models.wire.loads import SharedTime
from models.wire.nicknames import HOLD_NICKNAMES, NICKNAMES_OUTLIVE_S
from models.wire.polls import BrowserRole, PollSnapshot

_MOST_HOSTS = 1_000_000  # of a poll
_NICKNAMES_PER_CALL = 500

# KEYS: room, nicknames. ARGV: version, snapshot, state_changed_at_us, ttl_s, nicknames' ttl_s, may create (0, 1, or 2
# for a room that was there before), hosting: who hosts a poll whose totals are final changes without another version.
# Versions are microseconds and stay exact in Lua's doubles until the year 2255.
_STORE = """
local known = redis.call('HGET', KEYS[1], 'version')
if not known and ARGV[6] == '0' then return -2 end
if known and tonumber(known) > tonumber(ARGV[1]) then return -1 end
local hosting = redis.call('HGET', KEYS[1], 'hosting')
if known == ARGV[1] and hosting and tonumber(hosting) > tonumber(ARGV[7]) then return -1 end
if not known and ARGV[6] == '2' then redis.call('HSET', KEYS[1], 'restored', 1) end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'snapshot', ARGV[2], 'hosting', ARGV[7])
local closing = redis.call('HGET', KEYS[1], 'closing_us')
if closing and tonumber(ARGV[3]) >= tonumber(closing) then redis.call('HDEL', KEYS[1], 'closing_us') end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 1
"""

_CHOICES_PER_CALL = 500


_snapshot = msgspec.json.Decoder(PollSnapshot)


class Outcome(IntEnum):
    """What became of a snapshot: stored, older than what is there, or its room isn't in Redis."""

    STORED = 1
    OUTDATED = -1
    MISSING = -2


@dataclass(frozen=True, slots=True)
class StoredRoom:
    outcome: Outcome
    present: int  # distinct participants connected


class Rooms:
    """Writes rooms. Every method raises redis.RedisError when Redis is away; all are safe to repeat."""

    def __init__(self, client: redis.Redis, ttl_s: int) -> None:
        self._redis = client
        self._ttl_s = ttl_s
        self._store = client.register_script(_STORE)
        self._hold_nicknames = client.register_script(HOLD_NICKNAMES)
        self._store_choices = client.register_script(STORE_CHOICES)

    def store(self, polls: Sequence[PollSnapshot], *, create: bool = False) -> list[StoredRoom]:
        """Store snapshots unless newer ones are there, in one round trip.

        ``create`` only for a new poll, which nobody has joined: that a room is there says that it is complete.
        """
        return self._store_all(polls, int(create))

    def _store_all(self, polls: Sequence[PollSnapshot], create: int) -> list[StoredRoom]:
        pipe = self._redis.pipeline(transaction=False)
        for poll in polls:
            code = poll.room_code
            self._store(
                keys=[names.room_key(code), names.nicknames_key(code)],
                args=[
                    poll.version,
                    msgspec.json.encode(poll),
                    poll.state_changed_at_us,
                    self._ttl_s,
                    self._ttl_s + NICKNAMES_OUTLIVE_S,
                    create,
                    poll.token_generation * _MOST_HOSTS + len(poll.host_browsers),
                ],
                client=pipe,
            )
            pipe.hlen(names.present_key(code))
        answers = pipe.execute()
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return [StoredRoom(Outcome(outcome), present) for outcome, present in pairs]

    def restore(self, poll: PollSnapshot, nicknames: Iterable[Sequence[tuple[str, UUID]]]) -> StoredRoom:
        """Put a whole room back: nicknames in chunks, the snapshot last. What is there already stays.

        Nodes may know of nicknames that the database hasn't got yet. The mark that it is restored lets them take nobody
        new before each had time to put those back (socket_tier.nicknames); before the nicknames are read here, whoever
        stored one has written it to Redis.
        """
        self.make_way(poll)
        key = names.nicknames_key(poll.room_code)
        for chunk in nicknames:
            pipe = self._redis.pipeline(transaction=False)
            for nickname_key, participant_id in chunk:
                pipe.hsetnx(key, nickname_key, participant_id.hex)
            pipe.execute()
        return self._store_all([poll], 2)[0]

    def hold_nicknames(self, registrations: Iterable[Registration]) -> None:
        """Make nicknames durable whose participants are registered, or will be, and let their browsers resume them."""
        by_room: dict[str, list[Registration]] = {}
        for one in registrations:
            if one.room_code:
                by_room.setdefault(one.room_code, []).append(one)
        pipe = self._redis.pipeline(transaction=False)
        for room_code, together in by_room.items():
            keys = [names.nicknames_key(room_code), names.reserved_key(room_code)]
            for start in range(0, len(together), _NICKNAMES_PER_CALL):
                some = together[start : start + _NICKNAMES_PER_CALL]
                flat = [part for one in some for part in (one.nickname_key, one.participant_id.hex)]
                self._hold_nicknames(keys=keys, args=[self._ttl_s + NICKNAMES_OUTLIVE_S, *flat], client=pipe)
            for one in together:
                self._add_role(pipe, one)
        pipe.execute()

    def _add_role(self, pipe: redis.client.Pipeline, one: Registration) -> None:
        if one.browser_id is not None:
            key, field = names.browser_key(one.browser_id), names.browser_field(one.room_code, one.participant_id)
            role = BrowserRole(
                one.poll_id, one.room_code, one.participant_id, one.nickname, joined_at_us=one.joined_at_us
            )
            pipe.hsetnx(key, field, msgspec.json.encode(role))
            pipe.expire(key, self._ttl_s)

    def store_choices(self, choices: Mapping[str, Sequence[tuple[str, int, int]]], *, add: bool) -> None:
        """By room code: participant's id in hex, option (or ``NOT_COUNTED``) and seq each, and what they replace as in
        ``models.wire.choices``. ``add``: also where nothing is known of a participant's choice."""
        pipe = self._redis.pipeline(transaction=False)
        for code, all_of_room in choices.items():
            for start in range(0, len(all_of_room), _CHOICES_PER_CALL):
                some = packed(all_of_room[start : start + _CHOICES_PER_CALL])
                self._store_choices(keys=[names.choices_key(code)], args=[self._ttl_s, some, int(add)], client=pipe)
        pipe.execute()

    def forget_choices(self, room_codes: Iterable[str]) -> None:
        """Whoever resumes in these rooms is told what the database knows."""
        pipe = self._redis.pipeline(transaction=False)
        for code in room_codes:
            pipe.expire(names.choices_key(code), 0)  # a vote worker's account may not delete
        pipe.execute()

    def forget(self, room_code: str) -> None:
        """Take out everything that stands there for a room whose poll is gone."""
        keys = [names.room_key, names.nicknames_key, names.reserved_key]
        keys += [names.choices_key, names.present_key, names.claim_key]
        self._redis.delete(*(key(room_code) for key in keys))

    def forget_stored(self) -> None:
        """Take out everything that came from the database, for all rooms and browsers, so that it is read anew. Who is
        connected stays: only the nodes know that."""
        for pattern in ("room:*", "browser:*"):
            cursor, more = 0, True
            while more:
                cursor, keys = self._redis.scan(cursor, pattern, 1000)
                stored = [key for key in keys if not key.endswith(b":present")]  # type: ignore[arg-type]
                if stored:
                    self._redis.unlink(*stored)
                more = cursor != 0

    def make_way(self, poll: PollSnapshot) -> None:
        """Take out what stands there for an earlier poll with the same room code: nobody has a nickname in this one."""
        (known,) = self.snapshots([poll.room_code])
        if known is not None and known.poll_id != poll.poll_id:
            self.forget(poll.room_code)

    def snapshots(self, room_codes: Sequence[str]) -> list[PollSnapshot | None]:
        """The polls that Redis has under these codes; None for a room that is missing."""
        pipe = self._redis.pipeline(transaction=False)
        for code in room_codes:
            pipe.hget(names.room_key(code), "snapshot")
        return [None if found is None else _snapshot.decode(found) for found in pipe.execute()]

    def versions(self, room_codes: Sequence[str]) -> list[int | None]:
        """The versions that Redis has; None for a room that is missing."""
        pipe = self._redis.pipeline(transaction=False)
        for code in room_codes:
            pipe.hget(names.room_key(code), "version")
        return [None if version is None else int(version) for version in pipe.execute()]

    def restore_browser(self, browser_id: UUID, roles: Sequence[BrowserRole]) -> None:
        """Write what a cookie stands for, with a marker so that "nothing" is remembered too. Newer roles stay."""
        key = names.browser_key(browser_id)
        pipe = self._redis.pipeline(transaction=False)
        for role in roles:
            pipe.hsetnx(key, names.browser_field(role.room_code, role.participant_id), msgspec.json.encode(role))
        pipe.hsetnx(key, names.BROWSER_COMPLETE, "")
        pipe.expire(key, self._ttl_s)
        pipe.execute()

    def take_turn(self, name: str, for_s: float) -> bool:
        """True for one caller among all workers, until ``for_s`` seconds are over."""
        return bool(self._redis.set(f"turn:{name}", 1, nx=True, px=max(1, int(for_s * 1000))))

    def lead(self, name: str, who: str, for_s: float) -> bool:
        """True for one worker, as long as it asks again within ``for_s`` seconds."""
        key, for_ms = f"lead:{name}", max(1, int(for_s * 1000))
        if self._redis.set(key, who, nx=True, px=for_ms):
            return True
        return self._redis.get(key) == who.encode() and bool(self._redis.pexpire(key, for_ms))

    def server_time_us(self) -> int:
        """By Redis' clock."""
        seconds, microseconds = self._redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def tell_time(self, told: SharedTime) -> None:
        """For nodes."""
        self._redis.set(names.CLOCK_KEY, msgspec.json.encode(told))

    def changed_settings(self) -> Changes:
        """What operators have changed for all processes."""
        fields: dict[bytes, bytes] = self._redis.hgetall(names.SETTINGS_KEY)  # type: ignore[assignment]
        return Changes.decode(fields)
