"""Who is connected: counted in Redis over all nodes, announced to the rooms.

Per room a hash counts on how many nodes each participant is connected; per node a hash says what that node has added,
so that another node can take it back when this one dies. Both steps are idempotent, so any of it can be repeated.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from models.runtime.clock import now_us
from models.runtime.settings import RoomSettings
from models.wire import names
from models.wire.commands import RecordPresence, Sighting
from models.wire.polls import iso_time
from socket_tier.cache import Cache
from socket_tier.commands import Commands
from socket_tier.fanout import Fanout
from socket_tier.refusals import CacheUnavailable, Refused
from socket_tier.rooms import Member, Room, Rooms
from socket_tier.tasks import Tasks

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_BURIAL_LEASE_S = 30.0
_MEMBERS_AT_ONCE = 500
_SIGHTINGS_KEPT = 20_000
_SIGHTINGS_PER_MESSAGE = 1000
_ANNOUNCEMENTS_KEPT = 5_000


class Presence:
    """Counts this node's members in and out, and lives by a heartbeat."""

    def __init__(
        self,
        cache: Cache,
        commands: Commands,
        fanout: Fanout,
        rooms: Rooms,
        tasks: Tasks,
        node_id: UUID,
        settings: RoomSettings,
    ) -> None:
        self._cache = cache
        self._commands = commands
        self._fanout = fanout
        self._rooms = rooms
        self._tasks = tasks
        self._node_id = node_id
        self._settings = settings
        self._stale = False  # Redis may lack members of ours
        # This node drains: its people are on their way to another one, neither gone nor new, so nothing is said;
        # whoever doesn't arrive is counted out when this node is buried.
        self.moving = False
        self._trust_after = 0.0  # time.monotonic(): before it, silence of other nodes means nothing
        self._counts_to_send: set[str] = set()
        self._sightings: OrderedDict[UUID, Sighting] = OrderedDict()
        self.host_feed = HostFeed(fanout, settings.host_announcements_per_s)

    async def arrive(self, room: Room, participant_id: UUID, nickname: str, sid: str) -> Member:
        """A socket of a participant is here. Announced when the participant was nowhere before."""
        member = room.members.get(participant_id)
        if member is None:
            member = room.members[participant_id] = Member(participant_id, nickname)
        member.sids.add(sid)
        if member.leaving is not None:
            member.leaving.cancel()
            member.leaving = None
        if not member.counted:
            member.counted = True
            await self._count_in(room, member)
        return member

    def depart(self, room: Room, member: Member, sid: str) -> None:
        """A socket is gone. After the grace without another one the participant has left."""
        member.sids.discard(sid)
        if not member.sids and member.leaving is None and not self.moving:
            loop = asyncio.get_running_loop()
            member.leaving = loop.call_later(self._settings.leave_grace_s, self._left, room, member)

    async def run_heartbeat(self) -> None:
        """Say that this node lives. Nothing else is done in this loop: a node that is late here is taken for dead."""
        while True:
            try:
                if await self._cache.heartbeat(self._node_id):
                    self._stale = True
            except CacheUnavailable:
                self._stale = True
                # Redis has missed the others' heartbeats as well: nobody is dead until they had time to say so.
                self._trust_after = time.monotonic() + self._settings.node_timeout_s + _HEARTBEAT_S
            await asyncio.sleep(_HEARTBEAT_S)

    async def run_repairs(self) -> None:
        """Give Redis back what it lost of this node, and count out the members of nodes that died."""
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                if self._stale:
                    await self._count_everybody_in()
                if time.monotonic() >= self._trust_after:
                    await self._bury_the_dead()
            except CacheUnavailable:
                self._stale = True

    async def run_counts(self) -> None:
        """Send participant-count to the large rooms whose count has changed, and sightings to the workers."""
        while True:
            await asyncio.sleep(self._settings.count_interval_s)
            codes, self._counts_to_send = self._counts_to_send, set()
            for code in codes:
                room = self._rooms.known(code)
                if room is not None and room.sids:
                    await self._fanout.deliver(code, names.PARTICIPANT_COUNT, {"count": room.participant_count})
            await self._send_sightings()

    def heard_count(self, room_code: str, count: int) -> None:
        """Another node or a worker says how many are present."""
        room = self._rooms.known(room_code)
        if room is not None:
            room.participant_count = count

    def count_changed(self, room_code: str, count: int) -> None:
        """The count of a large room: shown with the next round, at most twice a second."""
        self.heard_count(room_code, count)
        self._counts_to_send.add(room_code)

    async def _count_in(self, room: Room, member: Member) -> None:
        try:
            news, room.participant_count = await self._cache.arrive(
                self._node_id, room.code, member.participant_id, member.nickname
            )
        except CacheUnavailable:
            self._stale = True
            return
        self._see(room, member, connected=True)
        if news:
            self._announce(room.code, names.PARTICIPANT_JOINED, member.nickname, room.participant_count)

    def _left(self, room: Room, member: Member) -> None:
        member.leaving = None
        if not member.sids and room.members.get(member.participant_id) is member:
            del room.members[member.participant_id]
            self._tasks.start(self._count_out(room, member), "presence-leave")

    async def _count_out(self, room: Room, member: Member) -> None:
        try:
            news, room.participant_count = await self._cache.leave(self._node_id, room.code, member.participant_id)
        except CacheUnavailable:
            self._stale = True
            return
        again = room.members.get(member.participant_id)
        if again is not None:  # came back while Redis was asked: its arrival may have been the earlier of the two
            await self._count_in(room, again)
        self._see(room, member, connected=again is not None)
        if news and again is None and not room.lost:
            self._announce(room.code, names.PARTICIPANT_LEFT, member.nickname, room.participant_count)

    def _announce(self, room_code: str, event: str, nickname: str, count: int) -> None:
        payload = {"nickname": nickname, "count": count, "timestamp": iso_time(now_us()), "roomCode": room_code}
        small = count <= self._settings.announce_up_to
        target = names.poll_room(room_code) if small else names.host_room(room_code)
        self._tasks.start(self._fanout.broadcast(target, event, payload), "announce")

    async def _count_everybody_in(self) -> None:
        """Make Redis's view of this node true again: nobody missing, nobody left over."""
        self._stale = False
        here = {
            (room.code, member.participant_id): member.nickname
            for room in self._rooms.in_use()
            for member in room.members.values()
            if member.sids
        }
        counted = await self._cache.node_members(self._node_id)
        gone = [(code, who, name) for code, who, name in counted if (code, who) not in here]
        await self._count_all_out(self._node_id, gone)
        missing = [(code, who, name) for (code, who), name in here.items()]
        for some in _chunks(missing):
            answers = await asyncio.gather(
                *(self._cache.arrive(self._node_id, code, who, name) for code, who, name in some)
            )
            for (code, _, name), (news, count) in zip(some, answers, strict=True):
                self.heard_count(code, count)
                if news:
                    self._announce(code, names.PARTICIPANT_JOINED, name, count)
        log.info("presence_restored", extra={"members": len(here)})

    async def _bury_the_dead(self) -> None:
        """One node at a time; its record goes last, so that a burial that fails is finished by somebody."""
        while True:
            dead = await self._cache.claim_dead_node(self._settings.node_timeout_s, _BURIAL_LEASE_S)
            if dead is None:
                return
            if dead == self._node_id:
                continue  # the heartbeat says otherwise in a moment
            members = await self._cache.node_members(dead)
            await self._count_all_out(dead, members)
            await self._cache.forget_node(dead)
            log.warning("dead_node_buried", extra={"dead_node": str(dead), "members": len(members)})

    async def _count_all_out(self, node_id: UUID, members: Sequence[tuple[str, UUID, str]]) -> None:
        for some in _chunks(members):
            answers = await asyncio.gather(*(self._cache.leave(node_id, code, who) for code, who, _ in some))
            for (code, _, name), (news, count) in zip(some, answers, strict=True):
                if news:
                    self._announce(code, names.PARTICIPANT_LEFT, name, count)

    def _see(self, room: Room, member: Member, *, connected: bool) -> None:
        self._sightings[member.participant_id] = Sighting(room.poll.poll_id, member.participant_id, connected, now_us())
        if len(self._sightings) > _SIGHTINGS_KEPT:
            self._sightings.popitem(last=False)

    async def _send_sightings(self) -> None:
        while self._sightings:
            some = [
                self._sightings.popitem(last=False)[1] for _ in range(min(len(self._sightings), _SIGHTINGS_PER_MESSAGE))
            ]
            try:
                await self._commands.send(RecordPresence(tuple(some)))
            except Refused:
                log.info("sightings_dropped", extra={"sightings": len(some)})  # reports only, first to be shed
                return


def _chunks(members: Sequence[tuple[str, UUID, str]]) -> Iterator[Sequence[tuple[str, UUID, str]]]:
    for start in range(0, len(members), _MEMBERS_AT_ONCE):
        yield members[start : start + _MEMBERS_AT_ONCE]


class HostFeed:
    """Joins and leaves for host sockets of large rooms: every one, paced."""

    def __init__(self, fanout: Fanout, per_s: int) -> None:
        self._fanout = fanout
        self._pause_s = 1 / per_s
        self._waiting: dict[str, deque[tuple[str, Any]]] = {}

    def add(self, room: str, event: str, payload: Any) -> None:
        queue = self._waiting.setdefault(room, deque(maxlen=_ANNOUNCEMENTS_KEPT))
        queue.append((event, payload))

    async def run(self) -> None:
        """Deliver one of each room per pause."""
        while True:
            await asyncio.sleep(self._pause_s)
            for room, queue in list(self._waiting.items()):
                event, payload = queue.popleft()
                if not queue:
                    del self._waiting[room]
                await self._fanout.deliver(room, event, payload)
