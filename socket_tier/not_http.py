"""Bytes that are no HTTP: aiohttp answers them with 400, or finds them behind a request that is answered already."""

import logging

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from socket_tier.audit import Audit


class NotHttp(logging.Filter):
    """Turns what aiohttp logs of them, a traceback and a bare address each, into security events, which are bounded.

    For the logger ``aiohttp.server``.
    """

    def __init__(self, audit: Audit) -> None:
        super().__init__()
        self._audit = audit

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | RequestPayloadError):
            return True
        address = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        self._audit.note("invalid_input", outcome="refused", action="not_http", address=address)
        return False
