"""The rooms that this node knows, and how it comes to know one."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import msgspec

from models.ballots import POLL_NOT_FOUND
from models.runtime.clock import now_us
from models.runtime.settings import RoomSettings
from models.wire.commands import CastVote, RestoreRoom
from models.wire.notices import RoomRestored
from models.wire.polls import (
    USUAL_RULES,
    PollSnapshot,
    PollState,
    Results,
    hides_totals,
    masked,
    poll_view,
    vote_update,
)
from socket_tier.cache import Cache, CachedRoom
from socket_tier.commands import Commands
from socket_tier.limits import Allowance, Limits, SessionVotes
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable, Refused, poll_not_found

log = logging.getLogger(__name__)

_KEPT_WITHOUT_SOCKETS = 5_000
_NEVER_EVICTED = 1_000


@dataclass(slots=True, eq=False)
class Member:
    """A participant who is connected to this node, by one socket or several."""

    participant_id: UUID
    nickname: str
    last_seq: int = 0
    choice: int | None = None
    choice_seq: int = 0  # whose choice that is, or of the refused vote since which it is unknown
    sids: set[str] = field(default_factory=set)
    counted: bool = False  # in Redis's presence
    leaving: asyncio.TimerHandle | None = None
    votes: SessionVotes | None = None  # what is left of its limit
    wire_id: str = field(init=False)  # as browsers know it
    key: str = field(init=False)  # as Redis does

    def __post_init__(self) -> None:
        self.wire_id = str(self.participant_id)
        self.key = self.participant_id.hex

    def cast(self, poll_id: int, option_index: int, at_us: int, opened_at_us: int) -> CastVote:
        """This member's next vote, received at ``at_us`` in the voting period that began at ``opened_at_us``.

        A clock behind the one that opened the poll must not make the vote look early, and one behind the clock of the
        participant's previous node must not make it look older than what it replaces.
        """
        # Comparisons instead of max(): this runs once per vote, and a call costs more than all of it.
        received_at_us = at_us if at_us > opened_at_us else opened_at_us
        seq = self.last_seq + 1
        if seq < received_at_us:
            seq = received_at_us
        self.last_seq = seq
        return CastVote(poll_id, self.participant_id, option_index, received_at_us, seq)

    def chose(self, vote: CastVote) -> bool:
        """A vote was acked. False when it is not this member's choice: a later one was acked or refused before."""
        if vote.seq <= self.choice_seq:
            return False
        self.choice = vote.option_index
        self.choice_seq = vote.seq
        return True

    def refused(self, seq: int, stands: int | None) -> None:
        """A vote that was acked, or is about to be, does not count; in a poll whose votes stand, what does instead."""
        if seq >= self.choice_seq:
            self.choice, self.choice_seq = stands, seq

    def learn(self, choice: int | None, seq: int) -> None:
        """What Redis or the database knows; ``seq`` as in ``choice_seq``."""
        if seq >= self.choice_seq or self.choice is None:
            self.choice, self.choice_seq = choice, max(seq, self.choice_seq)
        self.last_seq = max(self.last_seq, seq)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Room:
    """What this node knows of one poll."""

    poll: PollSnapshot
    votes: Allowance
    closing_us: int = 0  # of the latest close that is known here, applied or not
    ended_us: int = 0  # what the clock has shown last: a period that was to end by then has ended
    participant_count: int = 0
    lost: bool = False  # its poll is gone, and nobody is to enter it any more
    members: dict[UUID, Member] = field(default_factory=dict)
    sids: set[str] = field(default_factory=set)
    read_after: int = 0  # so many gaps in the notices
    unheard: bool = False  # notices may have been missed since, or would be now: no vote is taken
    totals_state: PollState = field(init=False)  # in which the poll has, or had, the totals that are known
    _asked_us: int = 0
    _durable_close_us: int = 0
    _unsure_closes: set[int] = field(default_factory=set)  # asked for here, and perhaps never to be sent
    # Rules hold for a poll's life; these are looked at with each vote.
    closes_at_us: int = field(init=False)
    vote_stands: bool = field(init=False)
    vote_reveals: bool = field(init=False)

    def __post_init__(self) -> None:
        self.totals_state = self.poll.state
        self._follow_rules()

    def _follow_rules(self) -> None:
        self.closes_at_us = self.poll.closes_at_us
        self.vote_stands = not self.poll.rules.vote_change
        self.vote_reveals = self.poll.rules.results is Results.AFTER_VOTE

    @property
    def code(self) -> str:
        return self.poll.room_code

    @property
    def state(self) -> PollState:
        """The state that holds on this node: a close holds from its receipt on, before a worker has applied it."""
        return PollState.CLOSED if self._is_closing() else self.poll.state

    def open_since_us(self, at_us: int) -> int | None:
        """When the voting period that runs at a time began, None when voting isn't open then."""
        poll, closes_at_us = self.poll, self.closes_at_us
        if poll.state is not PollState.OPEN or self.closing_us > poll.state_changed_at_us:
            return None
        if closes_at_us and (closes_at_us <= at_us or closes_at_us <= self.ended_us):
            return None
        return poll.opened_at_us

    @property
    def hides_totals(self) -> bool:
        """Whether only some may see the totals that are known: as their own state says, which may be a newer one than
        this node has heard of. Not a close that is on its way: it may never be committed."""
        return hides_totals(self.poll.rules, self.totals_state)

    def view(self, *, seen: bool) -> dict[str, Any]:
        """The ``poll`` object (wire contract), for somebody who sees hidden totals or does not."""
        view = {**poll_view(self.poll, self.participant_count), "state": self.state.value}
        if self._is_closing():
            view["closesAt"] = None
        return view if seen or not self.hides_totals else masked(view)

    def update(self, *, seen: bool) -> dict[str, Any]:
        """The present totals as a ``vote-update``, likewise."""
        update = vote_update(self.poll, self.participant_count, now_us())
        return update if seen or not self.hides_totals else masked(update)

    def next_change_us(self) -> int:
        """A time for a state change that is asked for now: later than every change known here and than those asked for
        before it, which may still be on their way, whatever the clocks say."""
        poll, ended_us = self.poll, self.closes_at_us if self._time_is_up() else 0
        latest_us = max(self._asked_us, poll.state_changed_at_us, poll.opened_at_us, self.closing_us, ended_us)
        self._asked_us = max(now_us(), latest_us + 1)
        return self._asked_us

    def ask_close(self, at_us: int) -> None:
        """A close was asked for here. It holds from now on, and may be withdrawn until it is durable."""
        self._unsure_closes.add(at_us)
        self._follow_closes()

    def note_closing(self, at_us: int) -> None:
        """A close is durable: it holds until the poll has a newer state."""
        self._unsure_closes.discard(at_us)
        self._durable_close_us = max(self._durable_close_us, at_us)
        self._follow_closes()

    def withdraw_close(self, at_us: int) -> None:
        """A close that was asked for here could not be sent; all others hold."""
        self._unsure_closes.discard(at_us)
        self._follow_closes()

    def _follow_closes(self) -> None:
        self.closing_us = max((self._durable_close_us, *self._unsure_closes))

    def learn(self, poll: PollSnapshot) -> bool:
        """Take in a snapshot unless it is older than what is known; whether the state changed by it."""
        if poll.poll_id != self.poll.poll_id:
            return False  # another poll has the code by now: a room of its own, read when somebody asks for it
        if poll.state_changed_at_us < self.poll.state_changed_at_us:
            return False
        previous = self.state
        if poll.version < self.poll.version:
            # An update of the totals was quicker than the state change it belongs behind.
            newer = self.poll
            poll = msgspec.structs.replace(poll, version=newer.version, votes=newer.votes, final=newer.final)
        else:
            self.totals_state = poll.state
        if _hosting(poll) < _hosting(self.poll):
            # A snapshot that was read before a revocation must not undo it.
            poll = msgspec.structs.replace(
                poll, token_generation=self.poll.token_generation, host_browsers=self.poll.host_browsers
            )
        if poll.rules != self.poll.rules and self.poll.rules != USUAL_RULES:
            # A worker of before knows of none.
            poll = msgspec.structs.replace(poll, rules=self.poll.rules)
        self.poll = poll
        self._follow_rules()
        return self.state is not previous

    def learn_totals(self, version: int, votes: list[int], final: bool, state: PollState | None) -> None:
        """Take in totals from a vote-update, unless they are older than what is known. ``state``: in which the poll had
        them; a worker of before doesn't tell."""
        if version > self.poll.version:
            self.poll = msgspec.structs.replace(self.poll, version=version, votes=tuple(votes), final=final)
            self.totals_state = state or self.poll.state

    def _is_closing(self) -> bool:
        """Before a worker has said so."""
        closing = self.closing_us > self.poll.state_changed_at_us or self._time_is_up()
        return closing and self.poll.state is PollState.OPEN

    def _time_is_up(self) -> bool:
        return 0 < self.closes_at_us <= self.ended_us


def _ignore(*_: Any) -> None:
    """Nobody is told."""


def _hosting(poll: PollSnapshot) -> tuple[int, int]:
    """Rises with each change of who hosts: within a generation browsers are only added."""
    return poll.token_generation, len(poll.host_browsers)


class Rooms:
    """Finds rooms: here, in Redis, or by asking the workers to restore one. Single flight per code."""

    def __init__(
        self,
        cache: Cache,
        commands: Commands,
        node_id: UUID,
        settings: RoomSettings,
        limits: Limits,
        metrics: NodeMetrics,
    ) -> None:
        self._cache = cache
        self._commands = commands
        self._node_id = node_id
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._closing: OrderedDict[int, int] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Room]] = {}
        self._missing: OrderedDict[str, float] = OrderedDict()
        self._timed: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._deaf = False
        self.gaps = 0  # times that notices may have been missed
        self.on_unread: Callable[[Room], None] = _ignore  # a room that somebody has entered is to be read
        self.on_changed: Callable[[Room, PollState], None] = _ignore  # a room in use has another state than it had
        self.on_lost: Callable[[Room], None] = _ignore  # a room's poll is gone

    def known(self, room_code: str) -> Room | None:
        """A room that this node has in memory, kept up to date by notices and results."""
        return self._rooms.get(room_code)

    def in_use(self) -> list[Room]:
        """Rooms with a socket on this node."""
        return [room for room in self._rooms.values() if room.sids]

    def timed(self) -> list[Room]:
        """Rooms whose voting periods end by themselves."""
        return list(self._timed.values())

    async def find(self, room_code: str) -> Room:
        """:raises Invalid: there is no such poll
        :raises ComeBackLater: nobody who could know answers
        """
        room = self._rooms.get(room_code)
        if room is not None and not _is_over(room.poll):
            self._rooms.move_to_end(room_code)
            return room
        if self._missing.get(room_code, 0) > time.monotonic():
            raise poll_not_found()
        return await self._once(room_code, self._load)

    async def refresh(self, room: Room) -> None:
        """Somebody comes who may have been shown newer totals elsewhere: take in what Redis has, since the fan-out may
        lag. With Redis away nobody is shown anything newer."""
        try:
            cached = await self._cache.newer_room(room.code, room.poll.version)
        except CacheUnavailable:
            return
        if cached is None:
            return
        if cached.poll.poll_id != room.poll.poll_id:
            self.doubt(room.code, room.poll.poll_id)
        else:
            self.add(cached.poll, cached.closing_us)

    async def restore(self, room_code: str) -> Room:
        """Have a worker put the room back into Redis, with its nicknames; once, however many ask.

        :raises Invalid: there is no such poll
        :raises ComeBackLater: no worker answered
        """
        return await self._once(room_code, self._restore)

    def learn(self, poll: PollSnapshot) -> None:
        """A state change is committed. Also kept for a room that is just being read, perhaps older than this."""
        room = self._rooms.get(poll.room_code)
        wanted = poll.room_code in self._loading if room is None else room.poll.poll_id == poll.poll_id
        if wanted:
            self.add(poll)

    def hold(self, room: Room, sid: str) -> Room:
        """Keep a room for a socket that enters it; the one to use, should it have been read anew meanwhile.

        :raises Invalid: its poll is gone; the code may stand for another one
        """
        held = room if room.lost else self._rooms.setdefault(room.code, room)
        if held.lost or held.poll.poll_id != room.poll.poll_id:
            raise poll_not_found()
        held.sids.add(sid)
        if self.is_unread(held):
            held.unheard = True
            self.on_unread(held)
        return held

    def heed(self, refusal: Refused, room: Room) -> None:
        """What workers say of a command for a room: perhaps that its poll is gone."""
        if refusal.code == POLL_NOT_FOUND:
            self.doubt(room.code, room.poll.poll_id)

    def doubt(self, room_code: str, poll_id: int) -> None:
        """A worker knows nothing of this poll. Ask again for its room, and lose it when it is gone indeed."""
        room = self._rooms.get(room_code)
        if room is not None and room.poll.poll_id == poll_id:
            self._start(room_code, self._restore)

    async def confirm(self, cached: CachedRoom) -> Room:
        """The room that Redis has; asked for in the database when this node knows another poll by its code.

        :raises Refused: it can't be told now which of the two there is
        """
        known = self._rooms.get(cached.poll.room_code)
        if known is not None and known.poll.poll_id != cached.poll.poll_id:
            return await self.restore(known.code)
        room = self.add(cached.poll, cached.closing_us)
        room.participant_count = cached.participant_count
        return room

    def note_closing(self, poll_id: int, at_us: int) -> None:
        """A close is on its way, for a room that may be read next, or is just being read, without it."""
        self._closing[poll_id] = max(at_us, self._closing.pop(poll_id, 0))
        if len(self._closing) > _KEPT_WITHOUT_SOCKETS:
            self._closing.popitem(last=False)

    def hearing_changed(self, hearing: bool) -> None:
        """Whether this node hears of state changes. While it doesn't, no room takes a vote: it may be closed."""
        self._deaf = not hearing
        for room in self._rooms.values():
            room.unheard = self._deaf or self.is_unread(room)

    def may_have_missed(self) -> None:
        """Notices were lost: each room takes votes again when it has been read."""
        self.gaps += 1
        for room in self._rooms.values():
            room.unheard = True

    def is_unread(self, room: Room) -> bool:
        """Whether notices may have been missed since the room was read."""
        return room.read_after != self.gaps

    def unread(self) -> list[Room]:
        return [room for room in self._rooms.values() if self.is_unread(room)]

    def was_read(self, room: Room, gaps: int) -> None:
        """All is known of a room as of when there had been so many ``gaps``."""
        room.read_after = gaps
        room.unheard = self._deaf or self.is_unread(room)

    def forget_unused(self) -> None:
        """Something may have been missed: rooms without sockets are read anew when somebody asks for them."""
        for code in [code for code, room in self._rooms.items() if not room.sids and not room.members]:
            del self._rooms[code]

    async def _once(self, room_code: str, work: Callable[[str], Coroutine[Any, Any, Room]]) -> Room:
        return await asyncio.shield(self._start(room_code, work))

    def _start(self, room_code: str, work: Callable[[str], Coroutine[Any, Any, Room]]) -> asyncio.Task[Room]:
        loading = self._loading.get(room_code)
        if loading is None:
            loading = asyncio.create_task(work(room_code), name=f"load-room-{room_code}")
            self._loading[room_code] = loading
            loading.add_done_callback(lambda done: self._loaded(room_code, done))
        return loading

    async def _restore(self, room_code: str) -> Room:
        request_id = uuid4()
        deadline_us = now_us() + 2_000_000
        answer = await self._commands.request(
            RestoreRoom(request_id, self._node_id, room_code, deadline_us), request_id
        )
        assert isinstance(answer, RoomRestored)
        if answer.poll is None:
            self._lose(room_code)
            self._missing[room_code] = time.monotonic() + self._settings.negative_cache_s
            if len(self._missing) > _KEPT_WITHOUT_SOCKETS:
                self._missing.popitem(last=False)
            raise poll_not_found()
        self._metrics.count("rooms.restored")
        return self.add(answer.poll)

    def add(self, poll: PollSnapshot, closing_us: int = 0) -> Room:
        """Know a room from now on."""
        room = self._rooms.get(poll.room_code)
        if room is None or room.poll.poll_id != poll.poll_id:
            self._lose(poll.room_code)
            votes = self._limits.room_votes(poll.room_code)
            room = Room(poll, votes, read_after=self.gaps, unheard=self._deaf)
            self._rooms[poll.room_code] = room
            room.ended_us = now_us()
            self._missing.pop(poll.room_code, None)
            self._evict()
        previous = room.state
        room.learn(poll)
        if room.poll.rules.close_after_s is not None:
            self._timed[room.code] = room
        room.note_closing(max(closing_us, self._closing.pop(poll.poll_id, 0)))
        if room.sids and room.state is not previous:
            self.on_changed(room, previous)  # the notice, which comes later, will change nothing any more
        return room

    def _lose(self, room_code: str) -> None:
        """What this node knew under this code is no poll any more."""
        room = self._rooms.pop(room_code, None)
        if room is not None:
            room.lost = True
            self.on_lost(room)

    async def _load(self, room_code: str) -> Room:
        while True:
            gaps = self.gaps
            room = await self._read(room_code)
            if gaps == self.gaps:
                return room  # whatever has changed since was heard

    async def _read(self, room_code: str) -> Room:
        try:
            cached = await self._cache.room(room_code)
        except CacheUnavailable:
            cached = None
        if cached is None or _is_over(cached.poll):
            return await self._restore(room_code)
        room = self.add(cached.poll, cached.closing_us)
        room.participant_count = cached.participant_count
        return room

    def _loaded(self, room_code: str, done: asyncio.Task[Room]) -> None:
        del self._loading[room_code]
        if not done.cancelled():
            done.exception()  # everybody who asked may have left meanwhile

    def _evict(self) -> None:
        """Down to the limit, the longest unused first; never what somebody here is in, or has just asked for."""
        excess = len(self._rooms) - _KEPT_WITHOUT_SOCKETS
        if excess <= 0:
            return
        older = islice(self._rooms.items(), max(0, len(self._rooms) - _NEVER_EVICTED))
        unused = [code for code, room in older if not room.sids and not room.members]
        for code in unused[:excess]:
            del self._rooms[code]


def _is_over(poll: PollSnapshot) -> bool:
    """Whether its retention is over: its code may stand for another poll by now, or soon. 0: a snapshot of before."""
    return 0 < poll.expires_at_us <= now_us()
