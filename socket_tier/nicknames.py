"""Who has which nickname, as far as this node has a say in it. Redis arbitrates; a limit counts nicknames, too.

A nickname is *reserved* while its participant is being registered, and *held* from the broker's confirm on. Who says
so, and what makes it right again:

- **Reserved**, in one step with the check of the room's limit. Whatever happens then, it has an end: this node gives it
  back when the join is refused, again and again until Redis has heard it. Without that word (this node was killed, or
  the broker's answer never came) the reservation ends by itself, after ``reserve_s`` and as soon as every node that
  lives has told Redis what it knew by then. Meanwhile somebody else who asks for it, or for the last place, is not
  refused for good but told to come again.
- **Held**, written behind the confirm and repeated until Redis has it. A worker that gets the registration says the
  same, whether or not the database takes it: so the nicknames of a killed node are held as well, also while PostgreSQL
  is away.
- **Stored**: a worker tells this node after the commit, and after Redis has heard of it. Until then this node keeps it
  in mind (the newest ``_KEPT``): when Redis was emptied it puts back what the database need not have yet. A room that
  is read back from the database then takes nobody new for ``settle_s``, in which a node that is not dead has done so.

Not covered is a node that dies between a confirm and that moment, when Redis is emptied and no worker comes to its
registrations before the time is over: their nicknames can be given again, and then whoever is registered first has it
(participant_store.register). A registration in the dead-letter queue holds its nickname as long as Redis does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from socket_tier.cache import Cache
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable, Refused

log = logging.getLogger(__name__)

_TELL_EVERY_S = 1.0
_COLLECT_S = 0.02
_PAUSE_AFTER_FAILURE_S = 0.25
_PER_CALL = 500
_KEPT = 50_000

_Write = Callable[[str, Iterable[tuple[str, UUID]]], Awaitable[None]]


class Nickname(NamedTuple):
    """A folded nickname in a room, and whose it is."""

    room_code: str
    key: str
    participant_id: UUID


class Nicknames:
    """Takes nicknames, and tells Redis what became of them."""

    def __init__(self, cache: Cache, node_id: UUID, metrics: NodeMetrics, *, reserve_s: float, settle_s: float) -> None:
        self._cache = cache
        self._node_id = node_id
        self._metrics = metrics
        self._reserve_s = reserve_s
        self._settle_s = settle_s
        self._under_way: set[UUID] = set()  # reserved, with a registration whose confirm or commit has not come yet
        self._unstored: dict[UUID, Nickname] = {}
        self._to_hold: dict[UUID, Nickname] = {}
        self._to_release: dict[UUID, Nickname] = {}
        self._wanted = asyncio.Event()
        self._tell_at = 0.0

    async def reserve(self, nickname: Nickname, limit: int) -> None:
        """:raises NicknameTaken, RoomFull, NicknameUndecided, RoomNotCached, CacheUnavailable:"""
        try:
            await self._cache.take_nickname(*nickname, limit, reserve_s=self._reserve_s, settle_s=self._settle_s)
        except CacheUnavailable:
            self.release(nickname)  # Redis may have taken it although the answer was lost
            raise
        self._under_way.add(nickname.participant_id)

    def leave_open(self, nickname: Nickname) -> None:
        """Nobody knows whether the registration is lost: a worker holds the nickname, or it becomes free by itself."""
        self._under_way.discard(nickname.participant_id)

    def release(self, nickname: Nickname) -> None:
        """The join failed. The participant's id must not be used for another one."""
        self._under_way.discard(nickname.participant_id)
        self._to_release[nickname.participant_id] = nickname
        self._bound(self._to_release)
        self._wanted.set()

    def hold(self, nickname: Nickname) -> None:
        """The registration can't be lost any more."""
        if nickname.participant_id not in self._under_way:
            return  # the commit was quicker than the confirm
        self._under_way.discard(nickname.participant_id)
        for waiting in (self._unstored, self._to_hold):
            waiting[nickname.participant_id] = nickname
            self._bound(waiting)
        self._wanted.set()

    def stored(self, participant_ids: Iterable[UUID]) -> None:
        """The database has these registrations, and Redis their nicknames."""
        for participant_id in participant_ids:
            self._under_way.discard(participant_id)
            self._unstored.pop(participant_id, None)
            self._to_hold.pop(participant_id, None)

    async def run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), _TELL_EVERY_S)
            except TimeoutError:
                pass  # nothing has happened, which is worth telling
            await asyncio.sleep(_COLLECT_S)
            self._wanted.clear()
            if not await self.write():
                self._wanted.set()
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

    async def write(self) -> bool:
        """Tell Redis what it has not heard yet; what it doesn't take is kept. Whether it has heard all."""
        released, self._to_release = self._to_release, {}
        held, self._to_hold = self._to_hold, {}
        if not await self._tell(released, self._cache.release_nicknames):
            self._to_release = released | self._to_release
            self._to_hold = held | self._to_hold
            return False
        if not await self._tell(held, self._cache.hold_nicknames):
            self._to_hold = held | self._to_hold
            return False
        return time.monotonic() < self._tell_at or await self._all_told()

    async def _all_told(self) -> bool:
        try:
            if not await self._cache.nicknames_told(self._node_id):
                unstored = dict(self._unstored)
                if not await self._tell(unstored, self._cache.hold_nicknames):
                    return False
                await self._cache.nicknames_told(self._node_id, all_of_them=True)
                log.info("nicknames_put_back", extra={"names": len(unstored)})
        except CacheUnavailable:
            return False
        self._tell_at = time.monotonic() + _TELL_EVERY_S
        return True

    async def _tell(self, nicknames: Mapping[UUID, Nickname], write: _Write) -> bool:
        """Whether Redis has taken all of them; to say it again does no harm."""
        by_room: dict[str, list[tuple[str, UUID]]] = {}
        for room_code, key, participant_id in nicknames.values():
            by_room.setdefault(room_code, []).append((key, participant_id))
        calls = [
            write(room_code, some[start : start + _PER_CALL])
            for room_code, some in by_room.items()
            for start in range(0, len(some), _PER_CALL)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for error in answers:
            if error is not None and not isinstance(error, Refused):
                raise error
        return not any(answers)

    def _bound(self, waiting: dict[UUID, Nickname]) -> None:
        if len(waiting) > _KEPT:
            del waiting[next(iter(waiting))]
            self._metrics.count("nicknames.forgotten")
