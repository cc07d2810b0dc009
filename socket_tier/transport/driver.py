"""What both transports need of engine.io's aiohttp driver, mended where it would lose a client's packets."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import StreamReader, web
from engineio import exceptions, packet, payload
from engineio.async_drivers import aiohttp as aiohttp_driver

log = logging.getLogger(__name__)

_BODY_WITHIN_S = 20.0


class _WholeBody:
    """A request's body. aiohttp's own ``read`` returns what has come so far, often half of a payload."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content

    async def read(self, size: int) -> bytes:
        """:raises EngineIOError: the client went away, or took too long"""
        try:
            async with asyncio.timeout(_BODY_WITHIN_S):
                return await self._content.readexactly(size) if size else b""
        except (OSError, asyncio.IncompleteReadError) as error:
            raise exceptions.EngineIOError("the body did not come whole") from error


class ClientErrors:
    """Mixed into an engine: what clients do wrong is theirs, and no error of this server."""

    sockets: dict[str, Any]

    async def handle_request(self, request: web.Request) -> Any:
        # engine.io lists a session for a while after its end, and stumbles over a POST for it.
        sid = request.query.get("sid", "")
        if sid in self.sockets and self.sockets[sid].closed:
            del self.sockets[sid]
        return await super().handle_request(request)  # type: ignore[misc]

    def _log_error_once(self, _message: str, message_key: str) -> None:
        """engine.io would log it as an error, with what the client has sent in it."""
        log.debug("engine_request_refused", extra={"reason": message_key})


def translate_request(request: web.Request) -> dict[str, Any]:
    """The environment of a request, as engine.io wants it."""
    environ: dict[str, Any] = aiohttp_driver.translate_request(request)
    if "HTTP_ORIGIN" in environ:
        # engine.io repeats it in its refusal, and bytes that are no UTF-8 would have no encoding there.
        environ["HTTP_ORIGIN"] = environ["HTTP_ORIGIN"].encode("ascii", "replace").decode()
    return environ | {"wsgi.input": _WholeBody(request.content)}


def decode(encoded: str | bytes) -> packet.Packet:
    """:raises ValueError: not an engine.io packet"""
    with _depth_refused():
        return _known(packet.Packet(encoded_packet=encoded))


def decode_payload(body: bytes) -> list[packet.Packet]:
    """:raises ValueError: one of them is no engine.io packet, or there are more than ``Payload`` allows"""
    with _depth_refused():
        return [_known(each) for each in payload.Payload(encoded_payload=body.decode()).packets]


@contextmanager
def _depth_refused() -> Iterator[None]:
    """engine.io looks for JSON in every packet, however deep it is nested."""
    try:
        yield
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _known(decoded: packet.Packet) -> packet.Packet:
    if decoded.packet_type > packet.NOOP:
        raise ValueError(f"unknown packet type {decoded.packet_type}")
    return decoded
