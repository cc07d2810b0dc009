"""The fallback: engine.io's own sockets, with a driver that ends a session when its WebSocket ends."""

from typing import Any

import engineio
from aiohttp import web
from engineio.async_drivers import aiohttp as aiohttp_driver

from socket_tier.transport.driver import ClientErrors, decode, translate_request


class StockEngine(ClientErrors, engineio.AsyncServer):
    """Several times slower than ``DirectEngine``, and nothing bounds what a client leaves unread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {"translate_request": translate_request, "websocket": _WebSocket}
        self._async: dict[str, Any] = {**self._async, **own}


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
