"""Which Socket.IO rooms a socket is in, and what it is shown on entering one."""

import asyncio
from typing import Any
from uuid import UUID

import socketio

from models.runtime.clock import now_us
from models.wire import names
from models.wire.polls import PollState, closing_time, iso_time
from socket_tier.fanout import Fanout
from socket_tier.refusals import Invalid
from socket_tier.rooms import Member, Room, Rooms
from socket_tier.sessions import Session
from socket_tier.tasks import Tasks
from socket_tier.ticker import Ticker

_TELL_NODES_EVERY_S = 0.2


def state_changed(room: Room, previous: PollState) -> dict[str, Any]:
    """The payload of ``poll-state-changed`` (wire contract)."""
    state = room.state.value
    return {
        "roomCode": room.code,
        "newState": state,
        "previousState": previous.value,
        "state": state,
        "changedBy": "host",
        "timestamp": iso_time(now_us()),
        "reopenedCount": room.poll.reopened_count,
        "closesAt": closing_time(room.poll) if room.state is PollState.OPEN else None,
    }


def hearing_changed(room_code: str, hearing: bool) -> tuple[str, dict[str, Any]]:
    """The event (wire contract) that says whether live results reach a room's node, and its payload."""
    event = names.RESULTS_RESUMED if hearing else names.RESULTS_PAUSED
    return event, {"reason": "live results are " + ("back" if hearing else "delayed"), "roomCode": room_code}


class SocketRooms:
    """Moves sockets in and out of rooms."""

    def __init__(
        self,
        server: socketio.AsyncServer,
        fanout: Fanout,
        ticker: Ticker,
        rooms: Rooms,
        tasks: Tasks,
        most_per_session: float,
    ) -> None:
        self._server = server
        self._fanout = fanout
        self._ticker = ticker
        self._rooms = rooms
        self._tasks = tasks
        self._most_per_session = most_per_session
        self._first_voters: dict[str, list[str]] = {}  # by room code; of whom the other nodes are to hear

    def require_place(self, session: Session, room: Room) -> None:
        """:raises Invalid: the session is in as many rooms as one may be in"""
        if len(session.rooms) >= self._most_per_session and room.code not in session.rooms:
            raise Invalid("Too many rooms", "too_many_rooms", status=409)

    async def enter(self, session: Session, room: Room, *more: str) -> None:
        """Into the poll's own room, and into others such as the participant's or the hosts'."""
        self.hold(session, room)
        for name in (names.poll_room(room.code), *more):
            await self._server.enter_room(session.sid, name)

    async def enter_as_host(self, session: Session, room: Room, token_generation: int) -> None:
        """Hosts see the totals of their poll whatever its rules are."""
        self.hold(session, room)
        session.hosting[room.code] = token_generation
        await self.enter(session, room, names.host_room(room.code), names.totals_room(room.code))

    async def leave_as_host(self, session: Session, code: str) -> None:
        """It stays in the poll's room, as somebody who looks on."""
        session.hosting.pop(code, None)
        for name in (names.host_room(code), names.totals_room(code)):
            await self._server.leave_room(session.sid, name)

    def hold(self, session: Session, room: Room) -> Room:
        """Keep the room for a socket that is about to enter it.

        :raises Invalid: its poll is gone
        """
        held = self._rooms.hold(room, session.sid)
        session.rooms.add(room.code)
        return held

    def emptied(self, room_code: str) -> None:
        """Nobody is left in a room: what waits to be shown there is not shown any more."""
        self._ticker.forget(room_code)

    async def put_out(self, session: Session, code: str, participant_id: UUID | None) -> None:
        """Out of a lost poll's rooms; not out of those that the socket has entered since, of another poll."""
        left = [] if participant_id is None else [names.participant_room(participant_id)]
        if code not in session.rooms:
            left.append(names.poll_room(code))
        if code not in session.hosting:
            left += [names.host_room(code), names.totals_room(code)]
        for name in left:
            await self._server.leave_room(session.sid, name)

    async def leave_room(self, session: Session, name: str) -> None:
        await self._server.leave_room(session.sid, name)

    def sees_totals(self, sid: str, room: Room) -> bool:
        """Whether a socket may see the totals of a poll that hides them."""
        return sid in self._fanout.members(names.totals_room(room.code))

    def voted(self, room: Room, member: Member) -> None:
        """A participant's first vote is taken, in a poll that shows its totals to those who voted."""
        self._tasks.start(self._show_totals(room, member), "show-totals")
        if not self._first_voters:
            asyncio.get_running_loop().call_later(_TELL_NODES_EVERY_S, self._tell_nodes)
        self._first_voters.setdefault(room.code, []).append(member.key)

    def _tell_nodes(self) -> None:
        """A participant may have another tab, at another node."""
        voters, self._first_voters = self._first_voters, {}
        for code, keys in voters.items():
            told = self._fanout.broadcast(names.nodes_room(code), names.FIRST_VOTERS, {"roomCode": code, "keys": keys})
            self._tasks.start(told, "tell-nodes")

    def take(self, event: str, target: str, payload: Any) -> bool:
        """What nodes are told over the fan-out; False when it is for browsers as it is."""
        if event == names.VOTE_REJECTED:
            self._refused(target, payload)
            browsers = {key: value for key, value in payload.items() if key != names.REFUSED}
            self._tasks.start(self._fanout.deliver(target, event, browsers), "vote-rejected")
            return True
        if event == names.POLL_RETIRED:
            self._rooms.doubt(payload["roomCode"], int(payload["pollId"]))
            return True
        if event != names.FIRST_VOTERS:
            return False
        room = self._rooms.known(payload["roomCode"])
        if room is not None:
            for key in payload["keys"]:
                member = room.members.get(UUID(hex=key))
                if member is not None and member.choice is None:
                    self._tasks.start(self._show_totals(room, member), "show-totals")
        return True

    def _refused(self, target: str, payload: Any) -> None:
        """What was taken for a participant's choice, here or at another node, is none."""
        room = self._rooms.known(payload["roomCode"])
        member = room.members.get(names.participant_of(target)) if room is not None else None
        if member is not None and names.REFUSED in payload:
            seq, stands = payload[names.REFUSED]
            member.refused(seq, None if stands < 0 else stands)

    async def _show_totals(self, room: Room, member: Member) -> None:
        await self.reveal(room, member)
        for sid in list(member.sids):
            await self._fanout.deliver_results(sid, room.update(seen=True))

    async def reveal(self, room: Room, member: Member) -> None:
        """Let each socket of a participant see the totals from now on."""
        for sid in list(member.sids):
            await self._server.enter_room(sid, names.totals_room(room.code))

    async def leave_tentative(self, session: Session, chosen: str) -> None:
        """A socket has chosen a room: out of those that only its cookie had put it into."""
        for code in session.tentative - {chosen}:
            session.rooms.discard(code)
            await self.leave_as_host(session, code)
            await self._server.leave_room(session.sid, names.poll_room(code))
            self._left(session.sid, code)
        session.tentative.clear()

    def gone(self, session: Session) -> None:
        """The socket is closed; the server has taken it out of its rooms."""
        for code in session.rooms:
            self._left(session.sid, code)

    def show_soon(self, sid: str, room: Room, resumed: dict[str, Any] | None = None) -> None:
        """Send one socket the present state and totals, right after the ack that is being returned.

        ``resumed`` goes ahead of them as ``session-resumed``: what an ack of ``join-room`` would say.
        """
        asyncio.get_running_loop().call_soon(self._tasks.start, self._show(sid, room, resumed), "show-room")

    async def _show(self, sid: str, room: Room, resumed: dict[str, Any] | None) -> None:
        if resumed is not None:
            await self._fanout.deliver(sid, names.SESSION_RESUMED, resumed)
        await self._fanout.deliver(sid, names.POLL_STATE_CHANGED, state_changed(room, room.state))
        if not self._fanout.hearing:
            await self._fanout.deliver(sid, *hearing_changed(room.code, False))
        await self._fanout.deliver_results(sid, room.update(seen=self.sees_totals(sid, room)))

    def _left(self, sid: str, code: str) -> None:
        room = self._rooms.known(code)
        if room is not None:
            room.sids.discard(sid)
            if not room.sids:
                self._ticker.forget(code)
