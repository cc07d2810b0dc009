"""How a browser becomes a participant, and becomes the same one again."""

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from models.runtime.clock import now_us
from models.runtime.settings import Settings
from models.runtime.tokens import InvalidToken, ParticipantToken, Tokens
from models.wire import names
from models.wire.commands import Registration
from models.wire.nicknames import nickname_key
from models.wire.polls import BrowserRole
from socket_tier.audit import Audit
from socket_tier.batcher import Batcher
from socket_tier.cache import Cache, NicknameTaken, NicknameUndecided, RoomFull, RoomNotCached
from socket_tier.choices import Choices
from socket_tier.host_tokens import OTHER_POLL
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.nicknames import Nickname, Nicknames
from socket_tier.payloads import JoinRoom
from socket_tier.presence import Presence
from socket_tier.recent_votes import RecentVotes
from socket_tier.refusals import BrokerUnavailable, CacheUnavailable, Invalid, NotDecided, Refused, poll_not_found
from socket_tier.rooms import Member, Room, Rooms
from socket_tier.sessions import Session
from socket_tier.shedding import Shedding
from socket_tier.socket_rooms import SocketRooms
from socket_tier.turnstile import Turnstile

log = logging.getLogger(__name__)


_JOINS_PER_TURN = 20
# Most joins that are under way are decided within milliseconds.
_UNDECIDED_PAUSES_S = (0.03, 0.06, 0.12, 0.24, 0.48)


@dataclass(frozen=True, slots=True)
class _Identity:
    participant_id: UUID
    nickname: str


class Joining:
    """Joins and resumes participants."""

    def __init__(
        self,
        *,
        settings: Settings,
        cache: Cache,
        rooms: Rooms,
        presence: Presence,
        choices: Choices,
        nicknames: Nicknames,
        registrations: Batcher[Registration],
        tokens: Tokens,
        audit: Audit,
        limits: Limits,
        shedding: Shedding,
        sockets: SocketRooms,
        metrics: NodeMetrics,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._rooms = rooms
        self._presence = presence
        self._choices = choices
        self._nicknames = nicknames
        self._registrations = registrations
        self._tokens = tokens
        self._audit = audit
        self._limits = limits
        self._shedding = shedding
        self._sockets = sockets
        self._metrics = metrics
        self._recent_votes = RecentVotes(limits)
        self._turnstile = Turnstile(_JOINS_PER_TURN)

    async def join(self, session: Session, request: JoinRoom) -> dict[str, Any]:
        """The ack of ``join-room``.

        With a token or cookie of this poll and the same nickname the participant is the same as before; otherwise a
        new one, whose nickname must be free.

        :raises Refused:
        """
        self._limits.join(session.address)
        await self._turnstile.enter()
        room = await self._rooms.find(request.room_code)
        self._sockets.require_place(session, room)
        key = nickname_key(request.nickname)
        identity = self._from_token(session, room, request.participant_token, key) or self._from_cookie(
            session, room, key
        )
        reconnected = identity is not None
        if identity is None:
            self._shedding.newcomer()
            self._limits.new_participant(room.code)
            try:
                identity = await self._register(session, room, request.nickname, key)
            except NicknameTaken:
                identity = await self._from_another_tab(session, room, key)
                reconnected = True
        if reconnected:
            await self._rooms.refresh(room)
        member = await self.enter(session, room, identity.participant_id, identity.nickname)
        await self._sockets.leave_tentative(session, room.code)
        if reconnected:
            await self.learn_choice(room, member)
        self._metrics.count("joins.accepted")
        self._sockets.show_soon(session.sid, room)
        return self._ack(session, room, identity, member, reconnected=reconnected)

    async def resume(self, session: Session, code: str, token: str) -> None:
        """Make a connecting socket its participant again, by the token in its handshake; shown as ``session-resumed``.

        :raises Refused: the room can't be found now; nothing has changed
        """
        room = await self._rooms.find(code)
        identity = self._from_token(session, room, token, None)
        if identity is not None:
            await self._rooms.refresh(room)
            member = await self.enter(session, room, identity.participant_id, identity.nickname)
            await self.learn_choice(room, member)
            ack = self._ack(session, room, identity, member, reconnected=True)
            self._sockets.show_soon(session.sid, room, resumed=ack)

    async def enter(self, session: Session, room: Room, participant_id: UUID, nickname: str) -> Member:
        """Make a socket one of a participant's."""
        room = self._sockets.hold(session, room)
        earlier = session.participants.get(room.code)
        if earlier is not None and earlier[1].participant_id != participant_id:
            await self.leave(session, room.code)
        member = await self._presence.arrive(room, participant_id, nickname, session.sid)
        if room.lost:
            self._presence.depart(room, member, session.sid)
            raise poll_not_found()
        self._recent_votes.arrived(member)
        session.participants[room.code] = (room, member)
        await self._sockets.enter(session, room, names.participant_room(participant_id))
        return member

    async def leave(self, session: Session, room_code: str) -> None:
        """The socket is no longer one of the participant's."""
        _, member = self.depart(session, room_code)
        await self._sockets.leave_room(session, names.participant_room(member.participant_id))
        if room_code not in session.hosting:
            await self._sockets.leave_room(session, names.totals_room(room_code))

    def depart(self, session: Session, room_code: str) -> tuple[Room, Member]:
        """The socket is nobody's in this room; it is still in its Socket.IO rooms."""
        room, member = session.participants.pop(room_code)
        self._choices.hurry()
        self._presence.depart(room, member, session.sid)
        self._recent_votes.gone(member)
        return room, member

    def gone(self, session: Session) -> None:
        """The socket is closed."""
        if session.participants:
            self._choices.hurry()
        for room, member in session.participants.values():
            self._presence.depart(room, member, session.sid)
            self._recent_votes.gone(member)
        session.participants.clear()

    async def learn_choice(self, room: Room, member: Member) -> None:
        """A vote by way of another node, or before this one started, orders the next one behind it."""
        stored = await self._choices.of(room, member)
        member.learn(stored.option_index, stored.seq)
        if room.vote_reveals and member.choice is not None:
            await self._sockets.reveal(room, member)

    def _from_token(self, session: Session, room: Room, token: str | None, key: str | None) -> _Identity | None:
        if token is None:
            return None
        try:
            named = self._tokens.read_participant(token)
            if named.poll_id != room.poll.poll_id:
                raise InvalidToken(OTHER_POLL)
        except InvalidToken as error:
            self._audit.note(
                "invalid_participant_token",
                outcome="refused",
                room_code=room.code,
                address=session.address,
                reason=error.reason,
            )
            return None  # an old token of another installation is no reason to keep somebody out
        if key is not None and nickname_key(named.nickname) != key:
            return None
        return _Identity(named.participant_id, named.nickname)

    def _from_cookie(self, session: Session, room: Room, key: str) -> _Identity | None:
        for role in session.roles:
            if role.poll_id != room.poll.poll_id or role.participant_id is None or role.nickname is None:
                continue
            if nickname_key(role.nickname) == key:
                return _Identity(role.participant_id, role.nickname)
        return None

    async def _from_another_tab(self, session: Session, room: Room, key: str) -> _Identity:
        """A tab of the same browser may have taken the nickname after this one connected.

        :raises Invalid: it is somebody else's
        """
        if session.browser_id is not None:
            try:
                session.roles = await self._cache.known_browser_roles(session.browser_id) or session.roles
            except CacheUnavailable:
                log.info("browser_roles_not_read")
            identity = self._from_cookie(session, room, key)
            if identity is not None:
                return identity
        raise Invalid("Nickname already taken", "nickname_taken", status=409)

    async def _register(self, session: Session, room: Room, nickname: str, key: str) -> _Identity:
        # The same id when this socket tries again: a worker may register it although the broker's answer was lost.
        participant_id = session.applied_as.pop((room.code, key), None) or uuid7()
        reserved = Nickname(room.code, key, participant_id)
        await self._reserve(room, reserved)
        registration = Registration(
            room.poll.poll_id, participant_id, nickname, key, now_us(), session.browser_id, room.code
        )
        try:
            await self._registrations.add(registration)
        except Refused as refusal:
            if isinstance(refusal, BrokerUnavailable) and refusal.unclear:
                session.applied_as[room.code, key] = participant_id
                self._nicknames.leave_open(reserved)
            else:
                self._nicknames.release(reserved)
            raise
        self._nicknames.hold(reserved)
        session.applied_as.clear()
        if session.browser_id is not None:
            await self._remember(session, room, participant_id, nickname)
        return _Identity(participant_id, nickname)

    async def _reserve(self, room: Room, nickname: Nickname) -> None:
        """:raises NicknameTaken:
        :raises Refused:
        """
        limit = min(self._settings.room.max_participants, room.poll.rules.max_participants or sys.maxsize)
        try:
            try:
                await self._reserve_decided(nickname, limit)
            except RoomNotCached:
                if (await self._rooms.restore(room.code)).poll.poll_id != room.poll.poll_id:
                    raise poll_not_found() from None
                await self._reserve_decided(nickname, limit)
        except RoomFull:
            raise Invalid("Room is full", "room_full", status=409) from None
        except RoomNotCached:
            raise CacheUnavailable() from None

    async def _reserve_decided(self, nickname: Nickname, limit: int) -> None:
        """:raises NotDecided: it still depends on somebody else's join"""
        for pause_s in _UNDECIDED_PAUSES_S:
            try:
                return await self._nicknames.reserve(nickname, limit)
            except NicknameUndecided:
                await asyncio.sleep(pause_s)
        raise NotDecided()

    async def _remember(self, session: Session, room: Room, participant_id: UUID, nickname: str) -> None:
        """What the cookie stands for. Stored durably by the registration; here only for a quicker resume."""
        assert session.browser_id is not None
        role = BrowserRole(room.poll.poll_id, room.code, participant_id, nickname, joined_at_us=now_us())
        session.roles.append(role)
        try:
            await self._cache.add_browser_role(session.browser_id, role, complete=session.new_browser)
        except CacheUnavailable:
            log.info("browser_role_not_cached")

    def _ack(
        self, session: Session, room: Room, identity: _Identity, member: Member, *, reconnected: bool
    ) -> dict[str, Any]:
        token = ParticipantToken(
            room.poll.poll_id, identity.participant_id, identity.nickname, room.poll.token_generation
        )
        return {
            "success": True,
            "reconnected": reconnected,
            "participantId": str(identity.participant_id),
            "participantToken": self._tokens.sign_participant(token),
            "previousVote": member.choice,
            "poll": room.view(seen=self._sockets.sees_totals(session.sid, room)),
        }
