"""The Socket.IO events of the wire contract. Each ends in exactly one ack, whatever happens."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from models.runtime import correlation
from models.runtime.clock import now_us
from models.runtime.logs import Singles
from models.wire.commands import RestoreBrowser
from models.wire.notices import BrowserRestored
from models.wire.polls import BrowserRole
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.commands import Commands
from socket_tier.hosting import Controller, Hosting
from socket_tier.joining import Joining
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.payloads import Payloads
from socket_tier.refusals import CacheUnavailable, Invalid, RateLimited, Refused, unexpected
from socket_tier.rooms import Rooms
from socket_tier.server import SocketServer
from socket_tier.sessions import Session, Sessions
from socket_tier.socket_rooms import SocketRooms
from socket_tier.voting import Voting

log = logging.getLogger(__name__)

Handler = Callable[[Session, object], Awaitable[dict[str, Any]]]

_VOTE = "submit-vote"
_NAMED_CHARACTERS = 64
_ROLES_TRIED = 5
_FIRST_SID = "votemill.first_sid"
_BROWSER_WAIT_S = 1.0


class Events:
    """Connects the server's events to what they do."""

    def __init__(
        self,
        *,
        payloads: Payloads,
        server: SocketServer,
        sessions: Sessions,
        sockets: SocketRooms,
        rooms: Rooms,
        cache: Cache,
        commands: Commands,
        joining: Joining,
        hosting: Hosting,
        voting: Voting,
        limits: Limits,
        audit: Audit,
        metrics: NodeMetrics,
        node_id: UUID,
        singles: Singles,
    ) -> None:
        self._payloads = payloads
        self._server = server
        self._sessions = sessions
        self._sockets = sockets
        self._rooms = rooms
        self._cache = cache
        self._commands = commands
        self._joining = joining
        self._hosting = hosting
        self._voting = voting
        self._limits = limits
        self._audit = audit
        self._metrics = metrics
        self._node_id = node_id
        self._singles = singles

    def register(self) -> None:
        self._server.on("connect", self._connected)
        self._server.on("disconnect", self._disconnected)
        handlers = {
            "join": self._join,
            "join-room": self._join_room,
            _VOTE: self._submit_vote,
            "change-poll-state": self._change_poll_state,
        }
        for event, handle in handlers.items():
            self._server.on(event, self._answered(event, handle))
        self._server.on("*", self._unknown)

    async def _join(self, session: Session, payload: object) -> dict[str, Any]:
        self._limits.join(session.address)
        return await self._hosting.join(session, self._payloads.join_host(payload))

    async def _join_room(self, session: Session, payload: object) -> dict[str, Any]:
        try:
            return await self._joining.join(session, self._payloads.join_room(payload))
        except Refused:
            self._metrics.count("joins.refused")
            raise

    async def _submit_vote(self, session: Session, payload: object) -> dict[str, Any]:
        request = self._payloads.submit_vote(payload)
        self._limit_search(session, request.room_code)
        return await self._voting.submit(session, request)

    async def _change_poll_state(self, session: Session, payload: object) -> dict[str, Any]:
        request = self._payloads.change_poll_state(payload)
        self._limit_search(session, request.room_code)
        controller = Controller(session.address, request.host_token, session)
        return await self._hosting.change_state(controller, request)

    def _limit_search(self, session: Session, room_code: str) -> None:
        """Looking for a room that this node doesn't know may cost a query: trying codes is limited per address."""
        if self._rooms.known(room_code) is None:
            self._limits.request(session.address)

    async def _unknown(self, _event: str, sid: str, *_payload: object) -> dict[str, Any]:
        return await self._answered("unknown", self._no_such_event)(sid, None)

    async def _no_such_event(self, _session: Session, _payload: object) -> dict[str, Any]:
        raise Invalid("Unknown event", "unknown_event")

    def _answered(self, event: str, handle: Handler) -> Callable[..., Awaitable[dict[str, Any]]]:
        """Turns a handler's result, refusal or crash into one ack, and counts it as of the votes or the events.

        Beside its own fields any payload may have a ``traceparent``.
        """

        async def run(sid: str, *args: object) -> dict[str, Any]:
            source = "votes" if event == _VOTE else "events"
            started, payload = time.perf_counter(), args[0] if args else None
            caller = payload.pop("traceparent", None) if isinstance(payload, dict) else None
            trace, code = correlation.begin(caller), ""
            session = None
            try:
                session = self._sessions.get(sid)
                if session is None:
                    raise Invalid("Not connected", "not_connected")
                self._limits.event(session.events)
                if len(args) != 1:
                    raise Invalid("Invalid payload: expected exactly one argument", "invalid_payload")
                ack = {**await handle(session, args[0]), "correlationId": trace}
                if self._sessions.get(sid) is not session:
                    self._gone(session)  # it left while this was under way, and was put into rooms after that
                if source == "events":
                    self._metrics.count("events.acked")
                return ack
            except Refused as refusal:
                if session is not None:
                    self._audit.refusal(refusal, session.address)
                code = refusal.code
                self._refused(source, refusal)
                return refusal.body(trace)
            except Exception as error:
                self._metrics.count("events.failed")
                self._refused(source, error)
                log.exception("event_failed", extra={"handler": handle.__name__})
                code = unexpected().code
                return unexpected().body(trace)
            finally:
                took_s = time.perf_counter() - started
                if source == "events":
                    self._metrics.count("events.received")
                    self._metrics.timing_ms("events.ack_ms", took_s * 1000)
                self._note(event, payload, code, took_s)
                correlation.end()

        return run

    def _refused(self, source: str, error: Exception) -> None:
        if source == "votes":
            self._metrics.count("votes.refused")
        self._metrics.refused(source, error)

    def _note(self, event: str, payload: object, code: str, took_s: float) -> None:
        """One line for an event; none for a vote that was taken, which the vote log may have told of."""
        if (event == _VOTE and not code) or not self._singles.allows():
            return
        fields: dict[str, Any] = {"handled": event, "took_ms": round(took_s * 1000, 3)}
        if isinstance(payload, dict):
            named = {"room_code": payload.get("roomCode"), "command_id": payload.get("commandId")}
            fields |= {key: value[:_NAMED_CHARACTERS] for key, value in named.items() if isinstance(value, str)}
        if code:
            fields["code"] = code
        log.info("vote_refused" if event == _VOTE else "event_handled", extra=fields)

    async def _connected(self, sid: str, environ: dict[str, Any], auth: object = None) -> bool:
        # Anything but a refusal raised here would leave the client's rooms behind for ever.
        try:
            request = environ["aiohttp.request"]
            session = Session(
                sid,
                request["address"],
                request["browser_id"],
                request["new_browser"],
                self._limits.session_events(),
                self._limits.address_votes(request["address"]),
            )
            if environ.setdefault(_FIRST_SID, sid) != sid:
                self._limits.connect(session.address)  # leaving and coming again is no way around the limits
            self._sessions.add(session)
            self._metrics.count("connects.accepted")
            socket = self._server.direct_socket(sid)
            if socket is not None:
                socket.voter = session
            if session.browser_id is not None and not session.new_browser:
                session.roles = await self._roles(session.browser_id)
            if isinstance(auth, dict):
                correlation.begin(auth.pop("traceparent", None), otherwise=correlation.correlation_id.get())
                await self._resume(session, auth)
            elif session.roles:
                await self._put_back(session)
            return True
        except RateLimited as refusal:
            self._audit.refusal(refusal, session.address)
            self._metrics.refused("connects", refusal)
            return False
        except Exception as error:
            self._metrics.count("events.failed")
            self._metrics.refused("connects", error)
            log.exception("connect_failed")
            await self._disconnected(sid)
            return False

    async def _disconnected(self, sid: str, *_reason: object) -> None:
        session = self._sessions.remove(sid)
        if session is not None:
            self._gone(session)

    def _gone(self, session: Session) -> None:
        self._joining.gone(session)
        self._sockets.gone(session)

    async def _roles(self, browser_id: UUID) -> list[BrowserRole]:
        """What a known browser's cookie stands for: from Redis, else from the workers, else nothing yet."""
        try:
            known = await self._cache.browser_roles(browser_id)
        except CacheUnavailable:
            known = None
        if known is not None:
            return known
        request_id = uuid4()
        command = RestoreBrowser(request_id, self._node_id, browser_id, now_us() + int(_BROWSER_WAIT_S * 1e6))
        try:
            answer = await self._commands.request(command, request_id, _BROWSER_WAIT_S)
        except Refused as refusal:
            log.info("browser_unknown", extra={"code": refusal.code})
            return []
        assert isinstance(answer, BrowserRestored)
        return list(answer.roles)

    async def _resume(self, session: Session, auth: dict[str, Any]) -> None:
        """What the handshake names: the client needs no second event to be back in its room.

        A refusal only means that the client has to join by event, and hears the reason there.
        """
        try:
            named = self._payloads.handshake(auth)
            if named.room_code is not None and named.participant_token is not None:
                self._limits.join(session.address)
                await self._joining.resume(session, named.room_code, named.participant_token)
        except Refused as refusal:
            self._audit.refusal(refusal, session.address)
            log.info("resume_refused", extra={"code": refusal.code})

    async def _put_back(self, session: Session) -> None:
        """After a cut the unchanged MVP host page never repeats ``join``: its cookie puts it back into its rooms."""
        newest = sorted(session.roles, key=lambda role: -role.joined_at_us)[:_ROLES_TRIED]
        for role in newest:
            try:
                room = await self._rooms.find(role.room_code)
            except Refused:
                continue
            if role.poll_id != room.poll.poll_id:
                continue  # another poll's code by now
            await self._rooms.refresh(room)
            session.tentative.add(room.code)
            if role.host and role.token_generation >= room.poll.token_generation:
                await self._sockets.enter_as_host(session, room, role.token_generation)
            else:
                await self._sockets.enter(session, room)
            self._sockets.show_soon(session.sid, room)
