"""Who may control a poll, and how a state change travels."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.runtime.settings import SecuritySettings
from models.runtime.tokens import InvalidToken
from models.wire.commands import ChangeState, ClaimHost
from models.wire.notices import HostsRevoked, Notice, PollClosing, StateChanged
from models.wire.polls import BrowserRole, PollSnapshot, PollState
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.commands import Commands, NoAnswer
from socket_tier.host_tokens import HostTokens
from socket_tier.payloads import ChangePollState, JoinHost
from socket_tier.refusals import CacheUnavailable, Invalid, Refused, only_host
from socket_tier.rooms import Room, Rooms
from socket_tier.sessions import Session, Sessions
from socket_tier.shedding import Shedding
from socket_tier.socket_rooms import SocketRooms
from socket_tier.state_changes import StateChanges
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
        states: StateChanges,
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
        self._states = states
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
        """The ack of ``change-poll-state``: after the commit, or ``pending`` once the command is durable.

        A close holds on all nodes from its receipt on. An opening holds from its commit on: a vote must not reach a
        worker before the opening does.

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
        previous = room.state
        if request.new_state is previous:
            return self._ack(room, previous)
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
            if previous is PollState.OPEN:
                answer = await self._close(room, command)
            else:
                answer = await self._commands.request(command, command.command_id)
        except NoAnswer:
            return {**self._ack(room, previous), "pending": True}
        assert isinstance(answer, StateChanged)
        return self._ack(room, previous)

    async def _close(self, room: Room, command: ChangeState) -> Notice:
        """From its receipt on no vote is taken: here at once, elsewhere as soon as the command is durable."""
        notice = PollClosing(room.poll.poll_id, room.code, command.at_us, command.correlation_id)

        async def tell_the_others() -> None:
            told = await asyncio.gather(
                self._commands.broadcast(notice),
                self._cache.note_closing(room.code, command.at_us),
                return_exceptions=True,
            )
            for failure in told:
                if isinstance(failure, Refused):
                    log.warning("closing_not_announced", extra={"code": failure.code})  # the commit will be
                elif isinstance(failure, BaseException):
                    raise failure

        self._states.closing(notice)
        try:
            return await self._commands.request(command, command.command_id, when_durable=tell_the_others)
        except NoAnswer:
            raise
        except Refused:
            if room.closing_us == command.at_us:
                self._states.reopen_admission(room)
            raise

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

    def _ack(self, room: Room, previous: PollState) -> dict[str, Any]:
        poll = room.view(seen=True)
        return {"success": True, "state": poll["state"], "previousState": previous.value, "poll": poll}


def _invalid_token() -> Invalid:
    return Invalid("Invalid host token", "invalid_token", status=403)
