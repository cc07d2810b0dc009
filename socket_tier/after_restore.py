"""What a node does when the database was restored to an earlier moment: it believes nothing that it remembers of it."""

import asyncio
import logging

from models.runtime.clock import now_us
from models.wire.commands import Registration
from models.wire.nicknames import nickname_key
from socket_tier.batcher import Batcher
from socket_tier.choices import Choices
from socket_tier.refusals import Refused
from socket_tier.rooms import Room, Rooms
from socket_tier.sessions import Sessions
from socket_tier.state_changes import StateChanges

log = logging.getLogger(__name__)

_REGISTERED_AT_ONCE = 500


class AfterRestore:
    """Lost polls lose their rooms, choices are asked for anew, and whoever is connected is registered again."""

    def __init__(
        self,
        rooms: Rooms,
        choices: Choices,
        states: StateChanges,
        sessions: Sessions,
        registrations: Batcher[Registration],
    ) -> None:
        self._rooms = rooms
        self._choices = choices
        self._states = states
        self._sessions = sessions
        self._registrations = registrations

    async def run(self) -> None:
        """Once for each restore. Which vote is whose, and whether it stands, is the database's to say."""
        self._choices.drop_unwritten()
        for room in self._rooms.in_use():
            for member in room.members.values():
                member.choice = None
        await self._states.read_anew()
        registered = 0
        for room in self._rooms.in_use():
            registered += await self._register(room)
        log.info("registered_after_restore", extra={"participants": registered})

    async def _register(self, room: Room) -> int:
        """Those who joined after the moment are in no table; a repeat changes nothing of the others."""
        people = [
            Registration(
                room.poll.poll_id,
                member.participant_id,
                member.nickname,
                nickname_key(member.nickname),
                now_us(),
                next((session.browser_id for sid in member.sids if (session := self._sessions.get(sid))), None),
            )
            for member in room.members.values()
            if member.nickname
        ]
        for start in range(0, len(people), _REGISTERED_AT_ONCE):
            chunk = people[start : start + _REGISTERED_AT_ONCE]
            answers = await asyncio.gather(*map(self._registrations.add, chunk), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, Refused):
                    log.warning("not_registered_after_restore", extra={"room_code": room.code, "code": answer.code})
                elif isinstance(answer, BaseException):
                    raise answer
        return len(people)
