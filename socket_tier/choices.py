"""Participants' last acked choices in Redis, for whoever resumes: written behind the ack, read at a resume."""

import asyncio
import logging
from uuid import UUID, uuid4

from models.runtime.clock import now_us
from models.wire.choices import NOT_COUNTED
from models.wire.commands import CastVote, FetchChoices
from models.wire.notices import ChoicesFetched
from socket_tier.cache import Cache, StoredChoice
from socket_tier.commands import Commands
from socket_tier.refusals import CacheUnavailable, Refused
from socket_tier.rooms import Member, Room

log = logging.getLogger(__name__)

# The more there is to write the longer it is collected, and of who keeps voting the last choice alone is written. What
# a node that is killed has not written yet, the workers write after the commit.
_WRITE_EVERY_S = 0.02
_WRITE_EVERY_MOST_S = 0.2
_PER_CHOICE_S = 0.0004
_PAUSE_AFTER_FAILURE_S = 0.5
_PER_CALL = 500
_KEPT = 50_000


class Choices:
    """Writes are collected and repeated until Redis has them. Beyond ``_KEPT`` waiting ones the oldest are dropped:
    theirs the workers write after the commit."""

    def __init__(self, cache: Cache, commands: Commands, node_id: UUID) -> None:
        self._cache = cache
        self._commands = commands
        self._node_id = node_id
        self._unwritten: dict[str, tuple[str, int, int]] = {}  # by Member.key: room code, option, seq
        self._hurried = asyncio.Event()

    def note(self, room_code: str, member: Member, vote: CastVote) -> None:
        """A vote was acked."""
        waiting = self._unwritten.get(member.key)
        if waiting is None or waiting[2] < vote.seq:
            self._unwritten[member.key] = (room_code, vote.option_index, vote.seq)
            self._drop_oldest()

    def forget(self, room_code: str, participant_id: UUID, seq: int) -> None:
        """A vote that was acked, or is about to be, does not count: whoever resumes is told what does instead."""
        key = participant_id.hex
        waiting = self._unwritten.get(key)
        if waiting is None or waiting[2] <= seq:
            self._unwritten[key] = (room_code, NOT_COUNTED, seq)
            self._drop_oldest()

    def drop_unwritten(self) -> None:
        """Perhaps the database doesn't have those votes any more. Whoever resumes is told what it has."""
        self._unwritten.clear()

    def _drop_oldest(self) -> None:
        if len(self._unwritten) > _KEPT:
            del self._unwritten[next(iter(self._unwritten))]

    def hurry(self) -> None:
        """Somebody has left this node, and may resume at another one at once."""
        self._hurried.set()

    async def run(self) -> None:
        while True:
            self._hurried.clear()
            collect_s = min(max(_WRITE_EVERY_S, len(self._unwritten) * _PER_CHOICE_S), _WRITE_EVERY_MOST_S)
            if not await self.write():
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
                continue
            try:
                await asyncio.wait_for(self._hurried.wait(), collect_s)
            except TimeoutError:
                continue

    async def write(self) -> bool:
        """Write what is waiting; what Redis doesn't take is kept. Whether all of it is written."""
        if not self._unwritten:
            return True
        unwritten, self._unwritten = self._unwritten, {}
        by_room: dict[str, list[tuple[str, int, int]]] = {}
        for key, (room_code, option, seq) in unwritten.items():
            by_room.setdefault(room_code, []).append((key, option, seq))
        written = await asyncio.gather(
            *(
                self._store(room_code, choices[start : start + _PER_CALL])
                for room_code, choices in by_room.items()
                for start in range(0, len(choices), _PER_CALL)
            )
        )
        if all(written):
            return True
        # What was written already is written again, which does no harm. Newer ones may have come meanwhile.
        for key, choice in self._unwritten.items():
            if unwritten.get(key, choice)[2] <= choice[2]:
                unwritten[key] = choice
        self._unwritten = unwritten
        return False

    async def _store(self, room_code: str, choices: list[tuple[str, int, int]]) -> bool:
        try:
            await self._cache.store_choices(room_code, choices)
        except CacheUnavailable:
            return False
        return True

    async def of(self, room: Room, member: Member) -> StoredChoice:
        """The last choice of a participant, from Redis or else from the database by way of the workers. ``seq`` is not
        below that of a refused vote, behind which the next one is ordered, too.

        With neither in reach the choice is unknown and shown as none; the next vote is then ordered by the clock alone.
        """
        unwritten = self._unwritten.get(member.key)
        try:
            known, refused_seq = await self._cache.choice(room.code, member.participant_id)
        except CacheUnavailable:
            known, refused_seq, cached = None, 0, False
        else:
            cached = True
        # What came meanwhile, or what may have been written behind the question.
        known, refused_seq = _with(self._unwritten.get(member.key, unwritten), known, refused_seq)
        if known is not None:
            return known
        fetched = await self._fetch(room, member)
        if fetched is None:
            return StoredChoice(None, refused_seq)
        if cached:
            # At once or never: later it may be too old for a Redis that was emptied meanwhile.
            option = -1 if fetched.option_index is None else fetched.option_index
            await self._store(room.code, [(member.key, option, fetched.seq)])
        return StoredChoice(fetched.option_index, max(fetched.seq, refused_seq))

    async def _fetch(self, room: Room, member: Member) -> StoredChoice | None:
        """From the database; None when nobody answers."""
        request_id = uuid4()
        deadline_us = now_us() + 2_000_000
        command = FetchChoices(request_id, self._node_id, room.poll.poll_id, (member.participant_id,), deadline_us)
        try:
            answer = await self._commands.request(command, request_id)
        except Refused as refusal:
            log.warning("choice_unknown", extra={"code": refusal.code})
            return None
        assert isinstance(answer, ChoicesFetched)
        (choice,) = answer.choices
        return StoredChoice(None if choice.option_index < 0 else choice.option_index, choice.seq)


def _with(
    unwritten: tuple[str, int, int] | None, known: StoredChoice | None, refused_seq: int
) -> tuple[StoredChoice | None, int]:
    """What Redis knows, and what it is about to."""
    if unwritten is not None:
        _, option, seq = unwritten
        if option == NOT_COUNTED:
            refused_seq = max(refused_seq, seq)
        elif seq > refused_seq and (known is None or known.seq < seq):
            known = StoredChoice(option, seq)
    if known is not None and known.seq <= refused_seq:
        return None, refused_seq
    return known, refused_seq
