"""Polls that are gone while people sit in their rooms: a restore of the database has lost them, or their time is over.

A room code may stand for another poll after that. So whoever is in the room is told, and put out of it at once: of what
a socket was in the old poll, its host above all, nothing must be left when the new one is asked for by its code.
"""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from models.wire import names
from models.wire.polls import PollState
from socket_tier.fanout import Fanout
from socket_tier.joining import Joining
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import poll_not_found
from socket_tier.rooms import Room, Rooms
from socket_tier.sessions import Session, Sessions
from socket_tier.socket_rooms import SocketRooms, state_changed
from socket_tier.tasks import Tasks

log = logging.getLogger(__name__)


class LostPolls:
    """Clears the rooms that ``rooms`` loses."""

    def __init__(
        self,
        rooms: Rooms,
        sessions: Sessions,
        sockets: SocketRooms,
        joining: Joining,
        fanout: Fanout,
        tasks: Tasks,
        metrics: NodeMetrics,
    ) -> None:
        self._sessions = sessions
        self._sockets = sockets
        self._joining = joining
        self._fanout = fanout
        self._tasks = tasks
        self._metrics = metrics
        rooms.on_lost = self.lost

    def lost(self, room: Room) -> None:
        """Nobody is in this room any more. Rights end before this returns; the sockets hear of it in a moment."""
        self._metrics.count("rooms.lost")
        about = {"poll_id": room.poll.poll_id, "room_code": room.code, "sockets": len(room.sids)}
        log.warning("poll_lost", extra=about)
        sessions = [session for sid in room.sids if (session := self._sessions.get(sid)) is not None]
        room.sids.clear()
        put_out = [(session, self._put_out(session, room)) for session in sessions]
        self._sockets.emptied(room.code)
        self._tasks.start(self._tell(room, put_out), "tell-lost")

    def _put_out(self, session: Session, room: Room) -> UUID | None:
        """The participant that the socket was."""
        session.hosting.pop(room.code, None)
        session.rooms.discard(room.code)
        session.tentative.discard(room.code)
        session.roles = [role for role in session.roles if role.poll_id != room.poll.poll_id]
        if room.code not in session.participants:
            return None
        return self._joining.depart(session, room.code)[1].participant_id

    async def _tell(self, room: Room, put_out: Sequence[tuple[Session, UUID | None]]) -> None:
        """A client that doesn't know ``poll-gone`` sees that voting is closed, and the reason when it asks."""
        refusal = poll_not_found()
        state = PollState.CLOSED.value
        closed = {**state_changed(room, room.state), "newState": state, "state": state, "closesAt": None}
        gone: dict[str, Any] = {"roomCode": room.code, "error": refusal.message, "code": refusal.code}
        for event, payload in ((names.POLL_STATE_CHANGED, closed), (names.POLL_GONE, gone)):
            await self._fanout.deliver(names.poll_room(room.code), event, payload)
        for session, participant_id in put_out:
            await self._sockets.put_out(session, room.code, participant_id)
