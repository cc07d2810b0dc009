"""The fallback: engine.io's own sockets, with a driver that ends a session when its WebSocket ends."""

from typing import Any

from aiohttp import web
from engineio.async_drivers import aiohttp as aiohttp_driver

from socket_tier.transport.driver import Engine, decode


class StockEngine(Engine):
    """Several times slower than ``DirectEngine``; what a client leaves unread is bounded by time alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._async["websocket"] = _WebSocket


class _WebSocket(aiohttp_driver.WebSocket):
    """Without permessage-deflate, which costs 86 KB a connection."""

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        self._sock = web.WebSocketResponse(max_msg_size=self.server.max_http_buffer_size, compress=False)
        await self._sock.prepare(environ["aiohttp.request"])
        await self.handler(self)
        return self._sock

    async def wait(self) -> str | bytes:
        """:raises OSError: the client has gone, or doesn't speak engine.io"""
        data: str | bytes = await super().wait()
        try:
            decode(data)
        except ValueError as error:
            # engine.io's loop would break off here and leave the session to the ping time-out.
            raise OSError("not an engine.io packet") from error
        return data
