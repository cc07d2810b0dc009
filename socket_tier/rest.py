"""The REST calls of the wire contract."""

import csv
import io
import json
import logging
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web

from models.runtime.clock import now_us
from models.runtime.settings import Settings
from models.runtime.tokens import InvalidToken
from models.wire.commands import CreatePoll, ExportRows
from models.wire.notices import ExportedVote, PollCreated, RowsExported
from models.wire.polls import PollSnapshot, iso_time
from socket_tier.admin import Admin
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.commands import Commands
from socket_tier.health import Workers
from socket_tier.host_tokens import HostTokens
from socket_tier.hosting import MISSING, Controller, Hosting
from socket_tier.http import bearer_token, json_body, json_response
from socket_tier.limits import Limits
from socket_tier.payloads import ChangePollState, Payloads, room_code
from socket_tier.refusals import CacheUnavailable, Refused, WorkersUnavailable, only_host
from socket_tier.rooms import Room, Rooms
from socket_tier.shedding import Shedding

log = logging.getLogger(__name__)

_EXPORT_PAGE = 1000
_NEVER_REVOKED = 0  # in place of a host token's generation
# A spreadsheet runs what begins like a formula, in some languages also with the wide forms; an apostrophe in front
# makes it text. Some split at semicolons or tabs instead of commas: what comes behind one may be a cell's beginning.
_FORMULA = re.compile(r"(^|[;\t\r\n]\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


class Rest:
    """Handlers; ``routes`` lists them."""

    def __init__(
        self,
        *,
        settings: Settings,
        payloads: Payloads,
        node_id: UUID,
        rooms: Rooms,
        cache: Cache,
        commands: Commands,
        hosting: Hosting,
        workers: Workers,
        host_tokens: HostTokens,
        admin: Admin,
        audit: Audit,
        limits: Limits,
        shedding: Shedding,
    ) -> None:
        self._settings = settings
        self._payloads = payloads
        self._node_id = node_id
        self._rooms = rooms
        self._cache = cache
        self._commands = commands
        self._hosting = hosting
        self._workers = workers
        self._host_tokens = host_tokens
        self._admin = admin
        self._audit = audit
        self._limits = limits
        self._shedding = shedding

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/api/polls", self.create_poll),
            web.get("/api/polls/{code}", self.read_poll),
            web.post("/api/polls/{code}/state", self.change_state),
            web.post("/api/polls/{code}/host-token", self.renew_host_token),
            web.get("/api/polls/{code}/results.csv", self.export_csv),
            web.get("/api/polls/{code}/results.json", self.export_json),
        ]

    async def create_poll(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self._limits.create_poll(request["address"])
        self._shedding.newcomer()
        new = self._payloads.new_poll(await json_body(request))
        if self._workers.database_away():
            raise WorkersUnavailable()
        wait_s = self._settings.broker.reply_timeout_s
        command = CreatePoll(
            uuid4(),
            self._node_id,
            new.question,
            new.options,
            self._audit.hashed(request["address"]),
            deadline_us=now_us() + int(wait_s * 1e6),
            # A browser without a cookie can't come back as this one: leave the poll to be claimed.
            browser_id=None if request["new_browser"] else request["browser_id"],
            correlation_id=request["correlation_id"],
            rules=new.rules,
        )
        answer = await self._commands.request(command, command.command_id)
        assert isinstance(answer, PollCreated)
        if answer.poll.rules != new.rules:
            # A worker of a version that knows of none: nobody must join a poll without them.
            raise WorkersUnavailable()
        room = self._rooms.add(answer.poll)
        poll = room.poll
        self._audit.note("poll_created", outcome="ok", room_code=poll.room_code, address=request["address"])
        token = self._host_tokens.issue(poll)
        body = {
            **_both(room, seen=True),
            "hostToken": token,
            "joinUrl": f"{self._base(request)}/j/{poll.room_code}",
            "hostUrl": self._host_url(request, poll.room_code, token),
        }
        return json_response(body, 201)

    async def read_poll(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        code = room_code(request.match_info["code"])
        self._limits.read_room(code)
        stale = self._workers.database_away()
        try:
            cached = await self._cache.room(code)
        except CacheUnavailable:
            cached, stale = None, True
        if cached is not None:
            room = await self._rooms.confirm(cached)
        else:
            room = await self._rooms.find(code)
        body = _both(room, seen=room.hides_totals and self._is_host(request, room))
        if stale:
            body["stale"] = True  # the totals may lag behind until the database or Redis is back
        return json_response(body)

    async def change_state(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        code = room_code(request.match_info["code"])
        change = ChangePollState(code, self._payloads.new_state(await json_body(request)))
        controller = Controller(request["address"], bearer_token(request))
        return json_response(await self._hosting.change_state(controller, change))

    async def renew_host_token(self, request: web.Request) -> web.Response:
        """Take a poll over: for its host, or for an administrator on behalf of one who has lost control of it.

        :raises Refused:
        """
        room = await self._rooms.find(room_code(request.match_info["code"]))
        if not self._admin.knows(bearer_token(request)):
            self._demand_host(request, room, "takeover_refused")
        try:
            renewed = await self._host_tokens.renew(room, request["address"])
        except Refused as refusal:
            self._rooms.heed(refusal, room)
            raise
        body = {
            "success": True,
            "hostToken": renewed.token,
            "hostUrl": self._host_url(request, room.code, renewed.token),
        }
        return json_response({**body, "pending": True} if renewed.pending else body)

    async def export_csv(self, request: web.Request) -> web.StreamResponse:
        """One row per participant who voted.

        :raises Refused:
        """
        return await self._export(request, _Csv, everybody=False)

    async def export_json(self, request: web.Request) -> web.StreamResponse:
        """The poll and everybody who joined it, also those who have not voted.

        :raises Refused:
        """
        return await self._export(request, _Json, everybody=True)

    async def _export(
        self, request: web.Request, form: "type[_Csv] | type[_Json]", *, everybody: bool
    ) -> web.StreamResponse:
        """Streamed page by page: the next page is asked for when this one is sent.

        For the poll's host, or for an administrator.

        :raises Refused:
        """
        room = await self._rooms.find(room_code(request.match_info["code"]))
        by_admin = self._admin.knows(bearer_token(request))
        generation = _NEVER_REVOKED if by_admin else self._demand_host(request, room, "export_refused")
        details = {"by": "admin"} if by_admin else {}
        self._audit.note("results_exported", outcome="ok", room_code=room.code, address=request["address"], **details)
        seen = await self._newest_shown(room)
        rows = await self._page(room, generation, seen, None, everybody)
        written = form(room.poll)
        response = web.StreamResponse(
            headers={
                "Content-Type": form.media_type,
                "Content-Disposition": f'attachment; filename="votemill-{room.code}.{form.suffix}"',
            }
        )
        await response.prepare(request)
        await response.write(written.head())
        while True:
            await response.write(written.page(rows))
            if len(rows) < _EXPORT_PAGE:
                break
            try:
                rows = await self._page(room, generation, seen, rows[-1].participant_id, everybody)
            except Refused as refusal:
                # The status is long sent: only a body that ends in mid-air tells the client that it isn't whole.
                log.warning("export_cut_off", extra={"code": refusal.code, "room_code": room.code})
                if request.transport is not None:
                    request.transport.abort()
                return response
        await response.write(written.tail)
        await response.write_eof()
        return response

    async def _newest_shown(self, room: Room) -> int | None:
        """The version up to which anybody can have seen this poll, on any node: an export must not show less.

        What others show comes from Redis or lies there first. None when Redis can't tell.
        """
        try:
            cached = await self._cache.room(room.code)
        except CacheUnavailable:
            return None
        return max(cached.poll.version, room.poll.version) if cached else None

    async def _page(
        self, room: Room, generation: int, least_version: int | None, after: UUID | None, everybody: bool
    ) -> tuple[ExportedVote, ...]:
        request_id = uuid4()
        wait_s = self._settings.broker.reply_timeout_s
        command = ExportRows(
            request_id,
            self._node_id,
            room.poll.poll_id,
            now_us() + int(wait_s * 1e6),
            after,
            _EXPORT_PAGE,
            least_version=least_version,
            token_generation=generation,
            everybody=everybody,
        )
        try:
            answer = await self._commands.request(command, request_id)
        except Refused as refusal:
            self._rooms.heed(refusal, room)
            raise
        assert isinstance(answer, RowsExported)
        return answer.rows

    def _is_host(self, request: web.Request, room: Room) -> bool:
        token = bearer_token(request)
        try:
            return token is not None and self._host_tokens.generation(token, room) > 0
        except InvalidToken:
            return False  # what everybody sees it sees as well

    def _demand_host(self, request: web.Request, room: Room, audited_as: str) -> int:
        """The generation of the poll's host token that the caller shows.

        :raises Invalid: there is none, or it isn't good for this poll
        """
        token, reason = bearer_token(request), MISSING
        if token is not None:
            try:
                return self._host_tokens.generation(token, room)
            except InvalidToken as error:
                reason = error.reason
        self._audit.note(audited_as, outcome="refused", room_code=room.code, address=request["address"], reason=reason)
        raise only_host()

    def _host_url(self, request: web.Request, room_code: str, token: str) -> str:
        return f"{self._base(request)}/host/{room_code}#{token}"

    def _base(self, request: web.Request) -> str:
        """Where browsers reach this service. A Host header is believed only when it names one of our own origins."""
        if self._settings.node.public_url:
            return self._settings.node.public_url.rstrip("/")
        origins = self._settings.security.all_origins
        named = (origin for origin in origins if origin.partition("://")[2] == request.host)
        return next(named, origins[0])


def _both(room: Room, *, seen: bool) -> dict[str, Any]:
    """The poll at top level, where the MVP looks for it, and again as ``poll``."""
    view = room.view(seen=seen)
    return {"success": True, **view, "poll": view}


class _Csv:
    """Nickname, option and times; only of those who voted."""

    media_type, suffix, tail = "text/csv; charset=utf-8", "csv", b""

    def __init__(self, poll: PollSnapshot) -> None:
        self._options = poll.options

    def head(self) -> bytes:
        return _csv([("nickname", "option", "first vote", "last vote")])

    def page(self, votes: Sequence[ExportedVote]) -> bytes:
        return _csv([self._row(vote) for vote in votes if vote.option_index is not None])

    def _row(self, vote: ExportedVote) -> tuple[str, ...]:
        assert vote.option_index is not None
        safe = tuple(_FORMULA.sub(r"\1'", cell) for cell in (vote.nickname or "", self._options[vote.option_index]))
        return (*safe, _time(vote.first_voted_at_us) or "", _time(vote.last_voted_at_us) or "")


class _Json:
    """The poll as others see it, and ``participants``, null where somebody has not voted."""

    media_type, suffix, tail = "application/json; charset=utf-8", "json", b"]}\n"

    def __init__(self, poll: PollSnapshot) -> None:
        self._poll = poll
        self._separator = ""

    def head(self) -> bytes:
        poll = self._poll
        known = {"success": True, "roomCode": poll.room_code, "question": poll.question, "options": list(poll.options)}
        return (json.dumps(known, ensure_ascii=False)[:-1] + ', "participants": [').encode()

    def page(self, votes: Sequence[ExportedVote]) -> bytes:
        text = ""
        for vote in votes:
            text += self._separator + json.dumps(self._row(vote), ensure_ascii=False)
            self._separator = ",\n"
        return text.encode()

    def _row(self, vote: ExportedVote) -> dict[str, object]:
        return {
            "nickname": vote.nickname,
            "optionIndex": vote.option_index,
            "option": None if vote.option_index is None else self._poll.options[vote.option_index],
            "firstVotedAt": _time(vote.first_voted_at_us),
            "lastVotedAt": _time(vote.last_voted_at_us),
        }


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else iso_time(at_us)


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
