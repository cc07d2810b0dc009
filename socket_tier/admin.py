"""What operators may change at runtime, with the admin token."""

import hmac
import logging
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from models.runtime.clock import now_us
from models.runtime.live_settings import Changes, LiveSettings, SetLevel, changeable_keys, changed, value_of
from models.runtime.logs import LEVELS, ROOT
from models.runtime.settings import SettingsError
from models.wire.polls import iso_time
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.http import bearer_token, json_body, json_response
from socket_tier.refusals import CacheUnavailable, ComeBackLater, Invalid

log = logging.getLogger(__name__)

_LOGGER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")
_LONGEST_S = 7 * 86_400


_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class DeploymentNews(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the pipeline says of a deployment: who brings which image where, and how it ended."""

    environment: _Word
    image: _Word
    by: _Word
    outcome: Literal["begun", "ok", "failed"]
    run: Annotated[str, msgspec.Meta(max_length=500)] = ""  # where the pipeline's run is to be read
    problem: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Admin:
    """POST /api/config/deployments puts a deployment on record.

    GET and PUT /api/config/settings and log-level: all nodes and workers read both once a second. A GET reads Redis
    first, so that operators read at any node what they have written at another.
    """

    def __init__(self, admin_token: str, cache: Cache, live: LiveSettings, audit: Audit) -> None:
        self.token = admin_token
        self._cache = cache
        self._live = live
        self._audit = audit

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/api/config/log-level", self.read_log_level),
            web.put("/api/config/log-level", self.set_log_level),
            web.get("/api/config/settings", self.read_settings),
            web.put("/api/config/settings", self.change_settings),
            web.post("/api/config/deployments", self.record_deployment),
        ]

    async def read_log_level(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self.demand(request)
        self._audit.note("log_level_read", outcome="ok", address=request["address"])
        stale = not await self.refresh()
        return self._levels_response(stale=stale)

    async def set_log_level(self, request: web.Request) -> web.Response:
        """For a logger or all, for good or some seconds; ``null`` takes a level back.

        :raises Refused:
        """
        self.demand(request)
        body = await json_body(request)
        if not isinstance(body, dict) or "level" not in body or body.keys() - {"level", "logger", "seconds"}:
            raise Invalid("Expected an object with level and, as wanted, logger and seconds", "invalid_payload")
        level, logger, seconds = body["level"], body.get("logger", ROOT), body.get("seconds")
        if level is not None and level not in LEVELS:
            raise Invalid(f"Level must be one of {', '.join(LEVELS)}", "invalid_level")
        if not isinstance(logger, str) or not _LOGGER_NAME.fullmatch(logger):
            raise Invalid("Invalid logger", "invalid_logger")
        if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= _LONGEST_S):
            raise Invalid(f"Seconds must be an integer, 1..{_LONGEST_S}", "invalid_seconds")
        await self.refresh()
        levels = self._live.changes.levels_now(now_us())
        if level is None:
            levels.pop(logger, None)
        else:
            levels[logger] = SetLevel(level, None if seconds is None else now_us() + seconds * 1_000_000)
        await self._store(self._live.changes.values, levels)
        action = f"{logger}={level}" if seconds is None else f"{logger}={level} for {seconds} s"
        self._audit.note("log_level_set", outcome="ok", action=action, address=request["address"])
        return self._levels_response()

    async def read_settings(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self.demand(request)
        self._audit.note("settings_read", outcome="ok", address=request["address"])
        stale = not await self.refresh()
        return self._settings_response(stale=stale)

    async def change_settings(self, request: web.Request) -> web.Response:
        """All of the changes or, when one isn't valid, none; ``null`` takes a change back.

        :raises Refused:
        """
        self.demand(request)
        body = await json_body(request)
        if not isinstance(body, dict) or not body:
            raise Invalid("Expected an object with settings and their new values", "invalid_payload")
        await self.refresh()
        wanted = {**self._live.changes.values, **body}
        self._validate(wanted)
        values = {key: value for key, value in wanted.items() if value is not None}
        await self._store(values, self._live.changes.levels_now(now_us()))
        action = ",".join(f"{key}={value}" for key, value in body.items())
        self._audit.note("settings_changed", outcome="ok", action=action, address=request["address"])
        return self._settings_response()

    async def record_deployment(self, request: web.Request) -> web.Response:
        """Answered once the record is durable.

        :raises Refused:
        """
        self.demand(request)
        try:
            news = msgspec.convert(await json_body(request), DeploymentNews)
        except msgspec.ValidationError as error:
            raise Invalid(str(error), "invalid_payload") from error
        event, outcome = ("deployment_begun", "ok") if news.outcome == "begun" else ("deployment", news.outcome)
        details = {name: text for name in ("by", "run", "problem") if (text := getattr(news, name))}
        action = f"{news.environment} {news.image}"
        await self._audit.record(event, outcome=outcome, action=action, address=request["address"], **details)
        return json_response({"success": True})

    async def _store(self, values: dict[str, Any], levels: dict[str, SetLevel]) -> None:
        """In place of the changes that are known here."""
        before = self._live.changes
        changes = Changes(max(now_us(), before.version + 1), values, levels)
        if not await self._cache.store_changed_settings(changes, over=before.version):
            raise ComeBackLater("Somebody else is changing settings, please try again", "conflict", status=409)
        self._live.take_over(changes)
        self._live.hold_levels(now_us())

    def _validate(self, values: dict[str, Any]) -> None:
        try:
            changed(self._live.started_with, values)
        except SettingsError as error:
            raise Invalid("; ".join(error.problems), "invalid_settings") from error

    def _levels_response(self, *, stale: bool = False) -> web.Response:
        set_for_a_time = self._live.changes.levels_now(now_us()).items()
        until = {logger: iso_time(set_.until_us) for logger, set_ in set_for_a_time if set_.until_us is not None}
        body = {"success": True, "levels": self._live.levels.current(), "until": until}
        return json_response(body | _staleness(stale))

    def _settings_response(self, *, stale: bool = False) -> web.Response:
        now = {key: value_of(self._live.current, key) for key, _ in changeable_keys()}
        body = {"success": True, "settings": now, "changed": self._live.changes.values}
        return json_response(body | _staleness(stale))

    async def refresh(self) -> bool:
        """Take over what an operator has set by way of any node, or tell an emptied Redis of it again.

        False when Redis can't be asked: everything stays as it is.
        """
        asked = True
        try:
            stored = await self._cache.changed_settings()
            if stored.version < self._live.changes.version:
                await self._cache.store_changed_settings(self._live.changes, over=stored.version)
            self._live.take_over(stored)
        except CacheUnavailable:
            asked = False  # counted there
        self._live.hold_levels(now_us())
        return asked

    def knows(self, given: str | None) -> bool:
        """Whether this is the admin token; compared in constant time."""
        shown = (given or "").encode(errors="surrogateescape")  # headers may hold any byte
        return bool(self.token) and hmac.compare_digest(shown, self.token.encode())

    def demand(self, request: web.Request) -> None:
        """:raises Invalid: the caller shows no admin token"""
        if not self.knows(bearer_token(request)):
            self._audit.note("admin_refused", outcome="refused", action=request.path, address=request["address"])
            raise Invalid("Admin token required", "not_admin", status=403)


def _staleness(stale: bool) -> dict[str, bool]:
    """Said only where it matters: with Redis away this node can't know what was set by way of another."""
    return {"stale": True} if stale else {}
