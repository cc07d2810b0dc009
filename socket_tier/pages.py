"""Serves the page: documents, its own assets, and socket.io-client from npm. Nothing from a CDN."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

WEB = Path(__file__).resolve().parent / "web"
_ASSETS = WEB / "assets"
_CLIENT = WEB / "node_modules" / "socket.io-client" / "dist" / "socket.io.esm.min.js"
_DOCUMENTS = {
    "/": "index.html",
    "/host/{code}": "host.html",
    "/j/{code}": "participant.html",
    "/screen/{code}": "screen.html",
    "/operations": "operations.html",
}
_CACHED = {"Cache-Control": "no-cache"}  # asked for again with its ETag, answered 304 when unchanged
# aiohttp has a table of types of its own, with an old name for JavaScript and none for YAML.
_TYPES = {".js": "text/javascript", ".yaml": "application/yaml"}


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        *(web.get(path, _document(name)) for path, name in _DOCUMENTS.items()),
        web.get("/assets/vendor/socket.io.esm.min.js", _file(_CLIENT)),
        web.get("/openapi.yaml", _file(Path(__file__).parent / "openapi.yaml")),
        web.get("/asyncapi.yaml", _file(Path(__file__).parent / "asyncapi.yaml")),
        web.get("/assets/{filename:.+}", _asset),
    ]


def _document(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    return _file(WEB / name)


def _file(path: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(_request: web.Request) -> web.StreamResponse:
        return _sent(path)

    return serve


async def _asset(request: web.Request) -> web.StreamResponse:
    try:
        path = (_ASSETS / request.match_info["filename"]).resolve()
    except ValueError:  # a NUL in the name
        raise web.HTTPNotFound from None
    if not path.is_relative_to(_ASSETS):
        raise web.HTTPNotFound
    return _sent(path)


def _sent(path: Path) -> web.StreamResponse:
    if not path.is_file():
        raise web.HTTPNotFound  # FileResponse's own 404 has no body
    headers = _CACHED | ({"Content-Type": _TYPES[path.suffix]} if path.suffix in _TYPES else {})
    return web.FileResponse(path, headers=headers)
