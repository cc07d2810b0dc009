"""What operators may change at runtime, with the admin token."""

import hmac
import logging
import re
from collections.abc import Sequence

from aiohttp import web

from models.runtime.logs import LEVELS, ROOT, LogLevels
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.http import bearer_token, json_body, json_response
from socket_tier.refusals import CacheUnavailable, Invalid

log = logging.getLogger(__name__)

_LOGGER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")


class Admin:
    """GET and PUT /api/config/log-level. All nodes and workers read the levels once a second."""

    def __init__(self, admin_token: str, cache: Cache, levels: LogLevels, audit: Audit) -> None:
        self._admin_token = admin_token
        self._cache = cache
        self._levels = levels
        self._audit = audit

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/api/config/log-level", self.read_log_level),
            web.put("/api/config/log-level", self.set_log_level),
        ]

    async def read_log_level(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self._check(request)
        self._audit.note("log_level_read", outcome="ok", address=request["address"])
        return json_response({"success": True, "levels": self._levels.current()})

    async def set_log_level(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self._check(request)
        body = await json_body(request)
        if not isinstance(body, dict) or body.keys() - {"level", "logger"}:
            raise Invalid("Expected an object with level and, if it is for one only, logger", "invalid_payload")
        level, logger = body.get("level"), body.get("logger", ROOT)
        if level not in LEVELS:
            raise Invalid(f"Level must be one of {', '.join(LEVELS)}", "invalid_level")
        if not isinstance(logger, str) or not _LOGGER_NAME.fullmatch(logger):
            raise Invalid("Invalid logger", "invalid_logger")
        await self._cache.set_log_level(logger, level)
        await self.refresh()
        self._audit.note("log_level_set", outcome="ok", action=f"{logger}={level}", address=request["address"])
        return json_response({"success": True, "levels": self._levels.current()})

    async def refresh(self) -> None:
        """Take over what an operator has set by way of any node."""
        try:
            self._levels.apply(await self._cache.log_levels())
        except CacheUnavailable:
            return  # counted there; the levels stay as they are

    def knows(self, given: str | None) -> bool:
        """Whether this is the admin token; compared in constant time."""
        shown = (given or "").encode(errors="surrogateescape")  # headers may hold any byte
        return bool(self._admin_token) and hmac.compare_digest(shown, self._admin_token.encode())

    def _check(self, request: web.Request) -> None:
        if not self.knows(bearer_token(request)):
            self._audit.note("admin_refused", outcome="refused", action=request.path, address=request["address"])
            raise Invalid("Admin token required", "not_admin", status=403)
