"""Participants' last acked choices in Redis, for whoever resumes: written behind the ack, read at a resume."""

import asyncio
import logging
from collections import OrderedDict
from uuid import UUID, uuid4

from models.wire.commands import FetchChoices
from models.wire.notices import ChoicesFetched
from socket_tier.cache import Cache, StoredChoice
from socket_tier.commands import Commands
from socket_tier.refusals import CacheUnavailable, Refused
from socket_tier.rooms import Room
from socket_tier.vote_buffer import now_us

log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.02
_PAUSE_AFTER_FAILURE_S = 0.5
_PER_CALL = 500
_KEPT = 50_000


class Choices:
    """Writes are collected and repeated until Redis has them; beyond ``_KEPT`` waiting ones the oldest are dropped,
    and whoever resumes with one of those sees the previous choice until the database is asked."""

    def __init__(self, cache: Cache, commands: Commands, node_id: UUID) -> None:
        self._cache = cache
        self._commands = commands
        self._node_id = node_id
        self._unwritten: OrderedDict[tuple[str, UUID], tuple[int, int]] = OrderedDict()

    def note(self, room_code: str, participant_id: UUID, option: int, seq: int) -> None:
        """A vote was acked."""
        self._unwritten[room_code, participant_id] = (option, seq)
        if len(self._unwritten) > _KEPT:
            self._unwritten.popitem(last=False)

    async def run(self) -> None:
        while True:
            pause_s = _WRITE_EVERY_S if await self.write() else _PAUSE_AFTER_FAILURE_S
            await asyncio.sleep(pause_s)

    async def write(self) -> bool:
        """Write what is waiting; what Redis doesn't take is kept. Whether all of it is written."""
        if not self._unwritten:
            return True
        unwritten, self._unwritten = self._unwritten, OrderedDict()
        by_room: dict[str, list[tuple[UUID, int, int]]] = {}
        for (room_code, participant_id), (option, seq) in unwritten.items():
            by_room.setdefault(room_code, []).append((participant_id, option, seq))
        for room_code, choices in by_room.items():
            for start in range(0, len(choices), _PER_CALL):
                some = choices[start : start + _PER_CALL]
                try:
                    await self._cache.store_choices(room_code, some)
                except CacheUnavailable:
                    # Newer ones have come meanwhile; what was written already is written again, which does no harm.
                    self._unwritten = OrderedDict(unwritten | self._unwritten)
                    return False
        return True

    async def of(self, room: Room, participant_id: UUID) -> StoredChoice:
        """The last choice of a participant, from Redis or else from the database by way of the workers.

        With neither in reach the choice is unknown and shown as none; the next vote is then ordered by the clock alone.
        """
        try:
            known = await self._cache.choice(room.code, participant_id)
        except CacheUnavailable:
            known = None
        if known is not None:
            return known
        return await self._fetch(room, participant_id)

    async def _fetch(self, room: Room, participant_id: UUID) -> StoredChoice:
        request_id = uuid4()
        deadline_us = now_us() + 2_000_000
        command = FetchChoices(request_id, self._node_id, room.poll.poll_id, (participant_id,), deadline_us)
        try:
            answer = await self._commands.request(command, request_id)
        except Refused as refusal:
            log.warning("choice_unknown", extra={"code": refusal.code})
            return StoredChoice(None, 0)
        assert isinstance(answer, ChoicesFetched)
        (choice,) = answer.choices
        self._unwritten.setdefault((room.code, participant_id), (choice.option_index, choice.seq))
        return StoredChoice(None if choice.option_index < 0 else choice.option_index, choice.seq)
