"""Who may control a poll, and what hosts are answered."""

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.runtime.settings import SecuritySettings
from models.runtime.tokens import InvalidToken
from models.wire.commands import ChangeState, ClaimHost
from models.wire.notices import HostsRevoked
from models.wire.polls import BrowserRole, PollSnapshot
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.commands import Commands, NoAnswer
from socket_tier.host_tokens import HostTokens
from socket_tier.payloads import ChangePollState, JoinHost
from socket_tier.refusals import CacheUnavailable, Invalid, only_host
from socket_tier.rooms import Room, Rooms
from socket_tier.sessions import Session, Sessions
from socket_tier.shedding import Shedding
from socket_tier.socket_rooms import SocketRooms
from socket_tier.state_commands import StateCommands
from socket_tier.tasks import Tasks

log = logging.getLogger(__name__)

MISSING = "missing"  # no token, and no cookie that stands for one


@dataclass(frozen=True, slots=True)
class Controller:
    """Who asks for a state change: a socket's session, or a REST caller with its token."""

    address: str
    host_token: str | None = None
    session: Session | None = None


class Hosting:
    """Lets hosts and viewers in, and changes the state of polls for hosts."""

    def __init__(
        self,
        *,
        security: SecuritySettings,
        node_id: UUID,
        rooms: Rooms,
        cache: Cache,
        commands: Commands,
        host_tokens: HostTokens,
        sessions: Sessions,
        sockets: SocketRooms,
        state_commands: StateCommands,
        tasks: Tasks,
        shedding: Shedding,
        audit: Audit,
    ) -> None:
        self._security = security
        self._node_id = node_id
        self._rooms = rooms
        self._cache = cache
        self._commands = commands
        self._host_tokens = host_tokens
        self._sessions = sessions
        self._sockets = sockets
        self._state_commands = state_commands
        self._tasks = tasks
        self._shedding = shedding
        self._audit = audit

    async def join(self, session: Session, request: JoinHost) -> dict[str, Any]:
        """The ack of ``join``: into the room as its host, or as somebody who looks on.

        :raises Refused:
        """
        room = await self._rooms.find(request.room_code)
        self._sockets.require_place(session, room)
        generation = None if request.viewer else await self._admitted_as_host(session, room, request.host_token)
        await self._sockets.leave_tentative(session, room.code)
        await self._rooms.refresh(room)
        if generation is not None and generation < room.poll.token_generation:
            # Taken over by another host, while this one was admitted.
            if request.host_token is not None:
                raise _invalid_token()
            generation = None
        if generation is not None:
            await self._sockets.enter_as_host(session, room, generation)
        else:
            await self._sockets.enter(session, room)
        self._sockets.show_soon(session.sid, room)
        poll = room.view(seen=self._sockets.sees_totals(session.sid, room))
        return {"success": True, "role": "viewer" if generation is None else "host", "poll": poll}

    async def change_state(self, controller: Controller, request: ChangePollState) -> dict[str, Any]:
        """The ack of ``change-poll-state``: what a worker has decided, or ``pending`` once the command is durable.

        What this node shows decides nothing, not even that the poll is in that state already: another command may be
        on its way, from here or from another node.

        :raises Refused:
        """
        room = await self._rooms.find(request.room_code)
        try:
            generation = self._control(controller, room)
        except InvalidToken as error:
            self._audit.note(
                "state_change_refused",
                outcome="refused",
                action=request.new_state.value,
                room_code=room.code,
                address=controller.address,
                reason=error.reason,
            )
            raise only_host() from None
        self._shedding.change()
        self._audit.note(
            "state_change_asked",
            outcome="ok",
            action=request.new_state.value,
            room_code=room.code,
            address=controller.address,
        )
        shown = room.state
        command = ChangeState(
            uuid4(),
            self._node_id,
            room.poll.poll_id,
            request.new_state,
            room.next_change_us(),
            self._audit.hashed(controller.address),
            correlation_id.get(),
            token_generation=generation,
        )
        try:
            answer = await self._state_commands.send(room, command)
        except NoAnswer:
            poll = room.view(seen=True)
            ack = {"success": True, "state": poll["state"], "previousState": shown.value, "poll": poll}
            return {**ack, "pending": True}
        except Invalid as refusal:
            self._rooms.heed(refusal, room)
            raise
        # The poll is shown as it is by now: a later change may have been decided, too.
        decided, previous = answer.poll.state.value, answer.previous_state.value
        return {"success": True, "state": decided, "previousState": previous, "poll": room.view(seen=True)}

    def revoked(self, notice: HostsRevoked) -> None:
        """A poll's host tokens are void: nobody here hosts it any more, or hears what only hosts hear."""
        self._rooms.learn(notice.poll)
        self._commands.answered(notice.request_id, notice)
        room = self._rooms.known(notice.poll.room_code)
        for sid in room.sids if room is not None else ():
            session = self._sessions.get(sid)
            if session is not None:
                self._tasks.start(self._expel(session, notice.poll), "expel-host")

    async def _expel(self, session: Session, poll: PollSnapshot) -> None:
        """Hosting under the new token it may well be by now."""
        if session.hosting.get(poll.room_code, poll.token_generation) < poll.token_generation:
            await self._sockets.leave_as_host(session, poll.room_code)

    async def _admitted_as_host(self, session: Session, room: Room, host_token: str | None) -> int | None:
        """The token generation that a socket hosts under; None when it only looks on."""
        current = room.poll.token_generation
        if host_token is not None:
            generation = self._token_generation(session, room, host_token)
            await self._remember(session, room, generation)
            return generation
        if self._security.host_auth == "off" or self._hosts(session, room):
            return current
        if self._security.host_auth == "claim" and await self._claim(session, room):
            return current
        return None

    def _token_generation(self, session: Session, room: Room, host_token: str) -> int:
        try:
            return self._host_tokens.generation(host_token, room)
        except InvalidToken as error:
            self._audit.note(
                "invalid_host_token",
                outcome="refused",
                action="join",
                room_code=room.code,
                address=session.address,
                reason=error.reason,
            )
            raise _invalid_token() from None

    def _control(self, controller: Controller, room: Room) -> int:
        """The token generation under which somebody controls a poll.

        :raises InvalidToken: nobody who may
        """
        if controller.host_token is not None:
            return self._host_tokens.generation(controller.host_token, room)
        session = controller.session
        if session is not None:
            off = self._security.host_auth == "off" and room.code in session.rooms
            if off or self._hosts(session, room):
                return room.poll.token_generation
        raise InvalidToken(MISSING)

    def _hosts(self, session: Session, room: Room) -> bool:
        """Whether a socket was let in as host, or its cookie is a host's."""
        current = room.poll.token_generation
        return session.hosting.get(room.code, 0) >= current or self._cookie_hosts(session, room)

    def _cookie_hosts(self, session: Session, room: Room) -> bool:
        return session.browser_id in room.poll.host_browsers or any(
            role.host and role.poll_id == room.poll.poll_id and role.token_generation >= room.poll.token_generation
            for role in session.roles
        )

    async def _claim(self, session: Session, room: Room) -> bool:
        """The first browser to join a fresh poll by bare code from the creator's address becomes its host."""
        age_us = now_us() - room.poll.created_at_us
        if (
            session.browser_id is None
            or room.poll.host_browsers
            or room.poll.token_generation > 1  # its host has taken it over: it is nobody's to claim
            or age_us > self._security.claim_window_s * 1e6
            or room.poll.creator_address != self._audit.hashed(session.address)
        ):
            return False
        try:
            mine = await self._cache.claim_room(room.code, session.browser_id, int(self._security.claim_window_s * 2))
        except CacheUnavailable:
            return False
        if mine:
            await self._remember(session, room, room.poll.token_generation)
        return mine

    async def _remember(self, session: Session, room: Room, generation: int) -> None:
        """Bind the host's role to the browser, so that a socket that comes back is put back."""
        if session.browser_id is None or self._cookie_hosts(session, room):
            return
        role = BrowserRole(room.poll.poll_id, room.code, host=True, joined_at_us=now_us(), token_generation=generation)
        claim = ClaimHost(room.poll.poll_id, session.browser_id, now_us(), token_generation=generation)
        await self._commands.send(claim)
        self._audit.note(
            "host_claimed",
            outcome="ok",
            room_code=room.code,
            actor=str(session.browser_id),
            address=session.address,
        )
        session.roles.append(role)
        try:
            await self._cache.add_browser_role(session.browser_id, role, complete=session.new_browser)
        except CacheUnavailable:
            log.info("browser_role_not_cached")


def _invalid_token() -> Invalid:
    return Invalid("Invalid host token", "invalid_token", status=403)
