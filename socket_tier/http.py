"""What holds for every HTTP request: who asks, from which page, and in which form errors are answered."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web
from uuid_utils.compat import uuid7

from models.runtime.correlation import begin, new_id
from models.runtime.logs import Singles
from models.runtime.settings import SecuritySettings, Settings
from models.runtime.tokens import InvalidToken, Tokens
from socket_tier.addresses import TrustedProxies
from socket_tier.audit import Audit
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import ComeBackLater, NodeBusy, RateLimited, Refused, unexpected
from socket_tier.turnstile import Turnstile
from socket_tier.unfinished import Bodies, BodyNotRead

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SOCKET_IO_PATH = "/socket.io/"
_LIMITED, _HEALTH = "/api/", "/api/health"  # a balancer must always hear how a node is
BROWSER_COOKIE = "votemill"
# So named, no page of a subdomain and nobody on an unencrypted line can plant a browser's cookie.
SECURE_BROWSER_COOKIE = "__Host-votemill"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {sockets}; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HANDSHAKES_PER_TURN = 10
_PATH = 100  # characters of a path that are worth keeping
_STATUS_TEXT = {
    400: ("Bad request", "bad_request"),
    403: ("Not allowed", "forbidden"),
    404: ("Not found", "not_found"),
    405: ("Method not allowed", "method_not_allowed"),
    408: ("The request did not come whole in time", "request_timeout"),
    413: ("Request body is too large", "payload_too_large"),
    431: ("Request headers are too large", "headers_too_large"),
}

BODIES = web.AppKey("bodies", Bodies)
_BODY_REFUSALS = {
    "late": lambda: status_refusal(408),
    "too_large": lambda: status_refusal(413),
    "given_up": NodeBusy,
    "gone": lambda: Refused("Request body did not come whole", "broken_body"),
}


def json_response(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers)


def status_refusal(status: int, reason: str = "") -> Refused:
    """What has no words but those of its status."""
    text, code = _STATUS_TEXT.get(status, (reason or "Bad request", "http_error"))
    refusal = Refused(text, code, status=status)
    refusal.timed_out = status == 408
    return refusal


def error_response(status: int, headers: dict[str, str]) -> web.Response:
    """An answer to what never became a request, or to what broke while it was answered."""
    refusal = unexpected() if status >= 500 else status_refusal(status)
    return refusal_response(refusal, new_id(), headers)


def refusal_response(refusal: Refused, correlation: str, more_headers: dict[str, str] | None = None) -> web.Response:
    """429 and 503 carry Retry-After, in whole seconds; 429 also the limit (draft-ietf-httpapi-ratelimit-headers-10)."""
    headers = dict(more_headers or {})
    if isinstance(refusal, ComeBackLater):
        retry_after_s = max(1, math.ceil(refusal.retry_after_s))
        headers["Retry-After"] = str(retry_after_s)
        if isinstance(refusal, RateLimited):
            headers["RateLimit-Policy"] = f'"{refusal.limit}";q={refusal.most};w={refusal.window_s}'
            headers["RateLimit"] = f'"{refusal.limit}";r=0;t={retry_after_s}'
    return json_response(refusal.body(correlation), refusal.status, headers)


def security_headers(security: SecuritySettings) -> dict[str, str]:
    """What every answer carries, pages and errors alike."""
    # Not every browser's 'self' includes WebSockets.
    sockets = " ".join(origin.replace("http", "ws", 1) for origin in security.all_origins)
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Content-Security-Policy": _PAGE_POLICY.format(sockets=sockets),
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Server": "votemill",  # and not the versions of what it is made of
    }
    if security.secure_cookies:
        headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    return headers


class Edge:
    """The middleware around every request."""

    def __init__(
        self,
        settings: Settings,
        proxies: TrustedProxies,
        tokens: Tokens,
        limits: Limits,
        audit: Audit,
        metrics: NodeMetrics,
        singles: Singles,
    ) -> None:
        security = settings.security
        self._origins = frozenset(security.all_origins)
        self._headers = security_headers(security)
        self._proxies = proxies
        self._secure = security.secure_cookies
        self._cookie_name = SECURE_BROWSER_COOKIE if self._secure else BROWSER_COOKIE
        self._cookie_age_s = security.token_max_age_s
        self._tokens = tokens
        self._limits = limits
        self._audit = audit
        self._metrics = metrics
        self._singles = singles
        self._handshakes = Turnstile(_HANDSHAKES_PER_TURN)

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            correlation = begin(request.headers.get("traceparent"))
            request["correlation_id"] = correlation
            forwarded = request.headers.getall("X-Forwarded-For", ())
            request["address"] = self._proxies.client_address(request.remote, forwarded)
            request["browser_id"], request["new_browser"] = self._browser(request)
            if request.path == SOCKET_IO_PATH:
                try:
                    await self._admit_socket(request)
                except Refused as refusal:
                    return self._refused(request, refusal, correlation, source="connects")
                return await handler(request)
            if request.path.startswith(_HEALTH):
                return await self._answer(request, handler, correlation)
            try:
                response = await self._answer(request, handler, correlation)
                self._note(request, response, time.perf_counter() - started)
                return response
            finally:
                self._metrics.count("requests.answered")
                self._metrics.timing_ms("requests.answer_ms", (time.perf_counter() - started) * 1000)

        return edge

    def _note(self, request: web.Request, response: web.StreamResponse, took_s: float) -> None:
        quiet = not request.path.startswith(_LIMITED) or request.path.startswith(_HEALTH)
        level = logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level) and self._singles.allows():
            fields = {"method": request.method, "path": request.path[:_PATH], "status": response.status}
            log.log(level, "request_handled", extra=fields | {"took_ms": round(took_s * 1000, 3)})

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers of every response (aiohttp's on_response_prepare signal)."""
        headers = response.headers
        headers.update(self._headers)
        correlation = request.get("correlation_id")
        if correlation:
            headers["X-Correlation-Id"] = correlation
        if request.path != SOCKET_IO_PATH:
            self._allow_origin(request, response)
        if self._wants_cookie(request, response):
            response.set_cookie(
                self._cookie_name,
                self._tokens.sign_browser(request["browser_id"]),
                max_age=self._cookie_age_s,
                httponly=True,
                samesite="Lax",
                secure=self._secure,
                path="/",
            )
            # aiohttp has written the response's cookies into its headers before it calls this.
            headers.add("Set-Cookie", response.cookies[self._cookie_name].OutputString())

    async def _answer(self, request: web.Request, handler: Handler, correlation: str) -> web.StreamResponse:
        try:
            self._demand_origin(request)
            if request.method == "OPTIONS":
                return web.Response(status=204)
            if request.path.startswith(_LIMITED) and not request.path.startswith(_HEALTH):
                self._limits.request(request["address"])
            return await handler(request)
        except Refused as refusal:
            return self._refused(request, refusal, correlation)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return self._refused(request, status_refusal(error.status, error.reason), correlation, allow)
        except Exception as error:
            self._metrics.count("requests.failed")
            self._metrics.refused("requests", error)
            log.exception("request_failed", extra={"path": request.path, "method": request.method})
            return refusal_response(unexpected(), correlation)

    def _refused(
        self,
        request: web.Request,
        refusal: Refused,
        correlation: str,
        headers: dict[str, str] | None = None,
        *,
        source: str = "requests",
    ) -> web.Response:
        self._metrics.refused(source, refusal)
        self._audit.refusal(refusal, request["address"])
        return refusal_response(refusal, correlation, headers)

    async def _admit_socket(self, request: web.Request) -> None:
        """Before Engine.IO sees a request.

        :raises Refused:
        """
        if "sid" not in request.query:
            self._limits.connect(request["address"])
        self._demand_origin(request)
        if "j" in request.query:
            # Engine.IO would answer with a script, which any page may run: no Origin comes with a script's request.
            raise Refused("JSONP is not supported", "jsonp_not_supported")
        if "sid" not in request.query:
            await self._handshakes.enter()

    def _demand_origin(self, request: web.Request) -> None:
        """:raises Refused: a page asks that may not use this service"""
        if all(self._allowed(origin) for origin in request.headers.getall("Origin", ())):
            return
        self._audit.note("origin_refused", outcome="refused", action=request.path[:_PATH], address=request["address"])
        raise Refused("Origin not allowed", "origin_not_allowed", status=403)

    def _browser(self, request: web.Request) -> tuple[UUID, bool]:
        """The browser that the cookie names; a new one without a valid cookie."""
        cookie = request.cookies.get(self._cookie_name)
        if cookie:
            try:
                return self._tokens.read_browser(cookie), False
            except InvalidToken as error:
                self._audit.note("invalid_cookie", outcome="refused", address=request["address"], reason=error.reason)
        return uuid7(), True

    def _wants_cookie(self, request: web.Request, response: web.StreamResponse) -> bool:
        """Given with a page or a Socket.IO handshake, so that the browser has it before it does anything."""
        if not request.get("new_browser") or response.status >= 400:
            return False
        if request.path == SOCKET_IO_PATH:
            return "sid" not in request.query
        return response.content_type == "text/html"

    def _allowed(self, origin: str) -> bool:
        return origin in self._origins

    def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is None or not self._allowed(origin):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = "Retry-After, RateLimit, RateLimit-Policy, X-Correlation-Id"
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization, traceparent"
            response.headers["Access-Control-Max-Age"] = "600"


async def json_body(request: web.Request) -> Any:
    """The body as JSON.

    :raises Refused: not JSON, or not declared as such; too large, or not whole in time
    """
    if request.content_type != "application/json":
        raise Refused("Content-Type must be application/json", "invalid_content_type", status=415)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused("Content-Encoding is not supported", "invalid_content_encoding", status=415)
    try:
        return msgspec.json.decode(await request.app[BODIES].read(request, request.client_max_size))
    except BodyNotRead as error:
        raise _BODY_REFUSALS[error.reason]() from None
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors, too
        raise Refused("Request body must be valid JSON", "invalid_json") from None


def bearer_token(request: web.Request) -> str | None:
    """The caller's token; None without one. What is not ASCII was never one of ours, and is an empty one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    return token.strip() if token.isascii() else ""
