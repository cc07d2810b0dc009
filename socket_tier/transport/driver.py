"""What both transports need of engine.io's aiohttp driver, mended where it would lose a client's packets."""

import logging
from typing import Any
from urllib.parse import unquote_plus

import engineio
from aiohttp import web
from engineio import exceptions, packet, payload
from engineio.async_drivers import aiohttp as aiohttp_driver

from socket_tier.unfinished import Bodies, BodyNotRead, Unfinished

log = logging.getLogger(__name__)

# For an engine that nobody gives others, as in tests of the transport alone.
_UNFINISHED_BYTES = 64 * 1024 * 1024
_BODY_WITHIN_S = 20.0
_JSONP = "d="
_SEPARATOR = "\x1e"


class Engine(engineio.AsyncServer):
    """What both engines have: whole bodies, within their bounds, and no errors of ours for what clients do wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bodies = Bodies(Unfinished(_UNFINISHED_BYTES), _BODY_WITHIN_S)
        self._async: dict[str, Any] = {**self._async, "translate_request": self._translate}

    async def handle_request(self, request: web.Request) -> Any:
        # engine.io lists a session for a while after its end, and stumbles over a POST for it.
        sid = request.query.get("sid", "")
        if sid in self.sockets and self.sockets[sid].closed:
            del self.sockets[sid]
        return await super().handle_request(request)

    def _log_error_once(self, _message: str, message_key: str) -> None:
        """engine.io would log it as an error, with what the client has sent in it."""
        log.debug("engine_request_refused", extra={"reason": message_key})

    def _translate(self, request: web.Request) -> dict[str, Any]:
        """The environment of a request, as engine.io wants it."""
        environ: dict[str, Any] = aiohttp_driver.translate_request(request)
        if "HTTP_ORIGIN" in environ:
            # engine.io repeats it in its refusal, and bytes that are no UTF-8 would have no encoding there.
            environ["HTTP_ORIGIN"] = environ["HTTP_ORIGIN"].encode("ascii", "replace").decode()
        return environ | {"wsgi.input": _WholeBody(request, self)}


class _WholeBody:
    """A request's body. aiohttp's own ``read`` returns what has come so far, often half of a payload."""

    def __init__(self, request: web.Request, engine: Engine) -> None:
        self._request = request
        self._engine = engine

    async def read(self, _declared: int) -> bytes:
        """All of it, also where no length was declared.

        :raises EngineIOError: the client went away, took too long or sent too much
        """
        try:
            return await self._engine.bodies.read(self._request, self._engine.max_http_buffer_size)
        except BodyNotRead as error:
            raise exceptions.EngineIOError("the body can't be read") from error


def decode(encoded: str | bytes) -> packet.Packet:
    """:raises ValueError: not an engine.io packet"""
    try:
        return _known(packet.Packet(encoded_packet=encoded))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def decode_payload(body: bytes) -> list[packet.Packet]:
    """:raises ValueError: one of them is no engine.io packet, or there are more than ``Payload`` allows"""
    text = body.decode()
    if text.startswith(_JSONP):
        # Payload would take a body of separators apart into a million fields.
        text = unquote_plus(text.removeprefix(_JSONP).partition("&")[0])
        if not text:
            raise ValueError("no payload")
    packets = text.split(_SEPARATOR) if text else []
    if len(packets) > payload.Payload.max_decode_packets:
        raise ValueError("too many packets")
    return [decode(each) for each in packets]


def _known(decoded: packet.Packet) -> packet.Packet:
    if decoded.packet_type > packet.NOOP:
        raise ValueError(f"unknown packet type {decoded.packet_type}")
    return decoded
