"""What aiohttp answers by itself, before anything of ours sees it: bytes that are no HTTP, and odd expectations."""

import logging

from aiohttp import web, web_urldispatcher
from aiohttp.http_exceptions import HttpProcessingError

from socket_tier.audit import Audit

_on_expect = web_urldispatcher._default_expect_handler


async def _pass_over_unknown(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await _on_expect(request)


def pass_over_unknown_expectations() -> None:
    """For all routes made from now on: RFC 9110 lets a server ignore an ``Expect`` that it doesn't know.

    aiohttp answers before any middleware, with a text that repeats the header and breaks where that has no encoding.
    """
    web_urldispatcher._default_expect_handler = _pass_over_unknown


class NotHttp(logging.Filter):
    """Turns what aiohttp logs of them, a traceback and a bare address each, into security events, which are bounded.

    For the logger ``aiohttp.server``.
    """

    def __init__(self, audit: Audit) -> None:
        super().__init__()
        self._audit = audit

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            return True
        address = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        self._audit.note("invalid_input", outcome="refused", action="not_http", address=address)
        return False
