"""Serves the page: documents, their assets, and what they use from npm. Nothing from a CDN.

Everything is read once, when the node starts. Documents name their assets under a hash of all assets, so that browsers
keep them for good and still never mix two versions; modules find each other by relative paths, under the same hash.
Without the hash an asset is asked for again each time: that is the address for pages of others.
"""

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

WEB = Path(__file__).resolve().parent / "web"
_ASSETS = WEB / "assets"
_FROM_NPM = {
    "vendor/socket.io.esm.min.js": "socket.io-client/dist/socket.io.esm.min.js",
    "vendor/lean-qr.mjs": "lean-qr/nano.mjs",
    "vendor/js-yaml.mjs": "js-yaml/dist/browser/js-yaml.esm.min.mjs",
}
_DOCUMENTS = {
    "/": "index.html",
    "/host/{code}": "host.html",
    "/j/{code}": "participant.html",
    "/screen/{code}": "screen.html",
    "/docs": "docs.html",
    "/operations": "operations.html",
}
_ASK_AGAIN = "no-cache"  # with its ETag, answered 304 when unchanged
_FOR_GOOD = "public, max-age=31536000, immutable"
_HASH = re.compile(r"([0-9a-f]{16})/")
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".yaml": "application/yaml"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Content:
    """A file as it is sent, plain and compressed."""

    media_type: str
    plain: bytes
    compressed: bytes
    tag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> "Content":
        suffix = Path(name).suffix
        media_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        tag = hashlib.sha256(body).hexdigest()[:16]
        return cls(media_type, body, gzip.compress(body, 9, mtime=0), tag)

    def answer(self, request: web.Request, cache: str) -> web.Response:
        headers = {"Cache-Control": cache, "ETag": f'"{self.tag}"', "Vary": "Accept-Encoding"}
        if any(tag.value in (self.tag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = self.media_type
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=self.compressed, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=self.plain, headers=headers)


class Site:
    """What the pages are made of; ``routes`` lists it."""

    def __init__(self) -> None:
        files = {path.relative_to(_ASSETS).as_posix(): path for path in _ASSETS.rglob("*") if path.is_file()}
        files |= {name: WEB / "node_modules" / path for name, path in _FROM_NPM.items()}
        self.assets = {
            name: Content.of(name, path.read_bytes()) for name, path in sorted(files.items()) if path.is_file()
        }
        self.hash = hashlib.sha256(
            "\n".join(f"{name} {asset.tag}" for name, asset in self.assets.items()).encode()
        ).hexdigest()[:16]

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        here = Path(__file__).parent
        return [
            *(web.get(path, self._document(name)) for path, name in _DOCUMENTS.items()),
            web.get("/assets/vendor/socket.io.esm.min.js", self._library),
            web.get("/openapi.yaml", _file(here / "openapi.yaml")),
            web.get("/asyncapi.yaml", _file(here / "asyncapi.yaml")),
            web.get("/assets/{filename:.+}", self._asset),
        ]

    def document(self, name: str) -> Content:
        text = (WEB / name).read_text(encoding="utf-8")
        return Content.of(name, text.replace('"/assets/', f'"/assets/{self.hash}/').encode())

    def _document(self, name: str) -> _Handler:
        return _sent(self.document(name))

    async def _library(self, request: web.Request) -> web.Response:
        return self._named("vendor/socket.io.esm.min.js", request, _ASK_AGAIN)

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["filename"]
        hashed = _HASH.match(name)
        # A node of another version may have sent the document: ours must not be kept under its hash.
        cache = _FOR_GOOD if hashed and hashed[1] == self.hash else _ASK_AGAIN
        return self._named(name[hashed.end() :] if hashed else name, request, cache)

    def _named(self, name: str, request: web.Request, cache: str) -> web.Response:
        asset = self.assets.get(name)
        if asset is None:
            raise web.HTTPNotFound
        return asset.answer(request, cache)


def _file(path: Path) -> _Handler:
    return _sent(Content.of(path.name, path.read_bytes()))


def _sent(content: Content) -> _Handler:
    async def serve(request: web.Request) -> web.Response:
        return content.answer(request, _ASK_AGAIN)

    return serve
