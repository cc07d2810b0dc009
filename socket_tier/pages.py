"""Serves the page: documents, its own assets, and socket.io-client from npm. Nothing from a CDN."""

import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

WEB = Path(__file__).parent / "web"
_CLIENT = WEB / "node_modules" / "socket.io-client" / "dist" / "socket.io.esm.min.js"
_DOCUMENTS = {
    "/": "index.html",
    "/host/{code}": "host.html",
    "/j/{code}": "participant.html",
    "/screen/{code}": "screen.html",
}
_CACHED = {"Cache-Control": "no-cache"}  # asked for again with its ETag, answered 304 when unchanged

mimetypes.add_type("text/javascript", ".js")


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        *(web.get(path, _document(name)) for path, name in _DOCUMENTS.items()),
        web.get("/assets/vendor/socket.io.esm.min.js", _file(_CLIENT)),
        web.get("/openapi.yaml", _file(Path(__file__).parent / "openapi.yaml")),
        web.get("/asyncapi.yaml", _file(Path(__file__).parent / "asyncapi.yaml")),
        web.static("/assets", WEB / "assets"),
    ]


def _document(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    return _file(WEB / name)


def _file(path: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers=_CACHED)  # 404 when it isn't there

    return serve
