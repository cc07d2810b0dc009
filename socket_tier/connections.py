"""Bounds for TCP connections, before and beside any request: how many, how long they may be silent, slow or unread."""

import asyncio
import resource
import socket as sockets
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from models.runtime.settings import NodeSettings
from socket_tier.addresses import TrustedProxies, limited_as
from socket_tier.http import error_response

_LOOK_EVERY_S = 1.0
_LOOK_AT_CLOSING_EVERY = 5  # looks: a closed connection whose last bytes are not read may take so long to end
_MOST_WAITING_REQUESTS = 8  # behind the one that is answered; browsers send one at a time
_MOST_HEADERS = 64
_FILES_KEPT = 300  # for the log, the servers and the page
_KERNEL_BUFFER_BYTES = 65_536  # of what a client has not read; left to itself the kernel holds megabytes for each
_LINGER_S = 2.0  # how long the rest of a body that nobody wants is read, so that the client sees the answer
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})


class Connections:
    """All TCP connections of a node: admits them, and ends those that are slow or too many.

    ``on_cut(reason, address)`` hears of each that was refused or ended. A trusted proxy, behind which there are many
    clients, has no limit of its own and no address there, except for what is no HTTP: that is the proxy's mistake.
    ``headers`` go with whatever is answered here.
    """

    def __init__(
        self,
        settings: NodeSettings,
        most_per_address: float,
        proxies: TrustedProxies,
        on_cut: Callable[[str, str], None],
        headers: dict[str, str],
    ) -> None:
        self.settings = settings
        self.on_cut = on_cut
        self.headers = headers
        self._most = min(settings.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES_KEPT)
        self._most_per_address = most_per_address
        self._proxies = proxies
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        # Since when, the longest first: without whole headers, and with much unread.
        self._headless: dict[Connection, float] = {}
        self._unread: dict[Connection, float] = {}
        self._closing: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: "Connection") -> bool:
        """Whether a new connection may stay. When all places are taken, the one longest without a request gives way."""
        address = connection.address
        if address and self._of_address[address] >= self._most_per_address:
            self.on_cut("connections_of_address", address)
            return False
        if len(self._open) >= self._most:
            silent = next(iter(self._headless), None)
            if silent is None:
                self.on_cut("connections_full", address)
                return False
            silent.cut("gave_way")
        self._open.add(connection)
        self._of_address[address] += 1
        self._headless[connection] = _now()
        return True

    def gone(self, connection: "Connection") -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._of_address[connection.address] -= 1
        if not self._of_address[connection.address]:
            del self._of_address[connection.address]
        for known in (self._headless, self._unread):
            known.pop(connection, None)
        self._closing.discard(connection)

    def headers_begun(self, connection: "Connection") -> None:
        self._headless.setdefault(connection, _now())

    def headers_whole(self, connection: "Connection") -> None:
        self._headless.pop(connection, None)

    def writing_paused(self, connection: "Connection") -> None:
        self._unread[connection] = _now()

    def writing_resumed(self, connection: "Connection") -> None:
        self._unread.pop(connection, None)

    async def run(self) -> None:
        look = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for connection in _overdue(self._headless, self.settings.header_deadline_s):
                connection.headers_late()
            for connection in _overdue(self._unread, self.settings.unread_deadline_s):
                connection.cut("unread")
            self._free_unread()
            look += 1
            if look % _LOOK_AT_CLOSING_EVERY == 0:
                self._end_closing()

    def addresses_of(self, transport: asyncio.BaseTransport) -> tuple[str, str]:
        """The peer's, and what it is counted under: nothing for a trusted proxy."""
        name = transport.get_extra_info("peername")
        peer = self._proxies.client_address(name[0] if name else None, ())
        return peer, "" if self._proxies.trusts(peer) else limited_as(peer)

    def _free_unread(self) -> None:
        """Disconnect who has left most unread, until all slow readers together hold no more than they may."""
        unread = {connection: connection.unread_bytes() for connection in self._unread}
        total = sum(unread.values())
        for connection in sorted(unread, key=unread.__getitem__, reverse=True):
            if total <= self.settings.max_unread_bytes:
                return
            total -= unread[connection]
            connection.cut("unread")

    def _end_closing(self) -> None:
        """A connection that is closed ends when its last bytes are read; one that reads nothing would stay for ever."""
        for connection in self._closing:
            connection.abort()
        self._closing = {connection for connection in self._open if connection.is_closing()}


class Connection(RequestHandler):
    """One TCP connection of aiohttp's, watched by ``Connections``."""

    __slots__ = ("_body", "_connections", "_head_bytes", "_wire", "address", "peer")

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._head_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._wire: asyncio.Transport | None = None
        self.peer = self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self.peer, self.address = self._connections.addresses_of(transport)
        if not self._connections.admit(self):
            self.abort()
            return
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (sockets.AF_INET, sockets.AF_INET6):
            settings = self._connections.settings
            patience_s = settings.ping_interval_s + settings.ping_timeout_s
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _KERNEL_BUFFER_BYTES)
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(patience_s * 1000))
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._payload_parser is not None:  # a WebSocket
            if self._data_received_cb is not None or self._force_close or self._close:
                super().data_received(data)
            elif self._payload_parser.feed_data(data)[0]:  # what aiohttp does, without one call more for each vote
                self.close()
            return
        if self._close or self._force_close:
            return
        requests, in_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count != requests:
            self._requests_arrived(self._request_count - requests)
        elif data and not in_body and not self._upgraded:
            self._head_bytes += len(data)
            self._connections.headers_begun(self)
            if self._head_bytes > self._connections.settings.max_header_bytes:
                self._refuse(431, "large_headers")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.writing_paused(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.writing_resumed(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What no handler answers, in the words of the wire contract. What a client did wrong is no error of ours.

        :raises ConnectionError: the client went away meanwhile, which is all that was wrong
        """
        if isinstance(exc, ConnectionError):
            raise exc
        if status >= 500:
            super().handle_error(request, status, exc, message)
        elif status == 400:
            self._connections.on_cut("not_http", self.peer)
        response = error_response(status, self._connections.headers)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """aiohttp logs a traceback and a bare address also where a client has garbled the rest of a body."""
        if isinstance(options.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            self._connections.on_cut("not_http", self.peer)
        else:
            super().log_exception(*args, **options)

    def headers_late(self) -> None:
        self._refuse(408, "slow_headers")

    def cut(self, reason: str) -> None:
        """End it at once, unread bytes and all."""
        self._connections.on_cut(reason, self.address)
        self.abort()

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def is_closing(self) -> bool:
        return self._wire is not None and self._wire.is_closing()

    def unread_bytes(self) -> int:
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def _requests_arrived(self, count: int) -> None:
        """The headers of one request or several are whole."""
        self._head_bytes = 0
        self._connections.headers_whole(self)
        for position in range(max(0, len(self._messages) - count), len(self._messages)):
            message, self._body = self._messages[position]
            if isinstance(message, _ErrInfo):
                continue
            if _head_size(message) > self._connections.settings.max_header_bytes:
                self._connections.on_cut("large_headers", self.address)
                self._messages[position] = _error(431)
            elif message.method in _BODILESS and self._body is not EMPTY_PAYLOAD:
                self._messages[position] = _error(400)  # nobody would read it, and it would be held meanwhile
        if len(self._messages) > _MOST_WAITING_REQUESTS:
            self.cut("pipelining")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what is no whole request, and close; only close while another one is being answered."""
        self._connections.headers_whole(self)
        if not self._head_bytes or self._waiter is None or self._waiter.done():
            self.cut(reason)
            return
        self._connections.on_cut(reason, self.address)
        self._messages.append(_error(status))
        self._waiter.set_result(None)
        self._close = True  # whatever still comes is not looked at


class Runner(web.AppRunner):
    """Runs the application behind ``connections``."""

    def __init__(self, app: web.Application, connections: Connections, **options: Any) -> None:
        settings = connections.settings
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=settings.idle_connection_s,
            lingering_time=_LINGER_S,
            max_headers=_MOST_HEADERS,
            # A body that unfolds to a thousand times its size is not unfolded: no client of ours compresses.
            auto_decompress=False,
            **options,
        )
        self._connections = connections

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self._connections, made)


class _Server(web.Server):
    """aiohttp's, with connections of ours."""

    def __init__(self, connections: Connections, made: web.Server) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory, **made._kwargs)
        self._watched_by = connections

    def __call__(self) -> RequestHandler:
        return Connection(self, self._watched_by, loop=self._loop, **self._kwargs)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _overdue(since: dict[Connection, float], deadline_s: float) -> list[Connection]:
    latest = _now() - deadline_s
    overdue = []
    for connection, began in since.items():
        if began > latest:
            break
        overdue.append(connection)
    return overdue


def _head_size(message: Any) -> int:
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def _error(status: int) -> tuple[Any, StreamReader]:
    return _ErrInfo(status, HttpProcessingError(code=status), ""), EMPTY_PAYLOAD
