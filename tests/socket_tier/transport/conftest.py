"""A Socket.IO server of its own on one of the transports, without the rest of a node.

The stock transport is the yardstick: on the direct one a client sees the same, except where a test says why not.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from scripts.stack.ports import LOOPBACK, any_free
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.engine import DirectEngine
from socket_tier.transport.stock import StockEngine

MOST_BYTES = 5000
_ENGINES = {"direct": DirectEngine, "stock": StockEngine}


@dataclass
class Running:
    """The server, and what its handlers have seen."""

    server: socketio.AsyncServer
    url: str
    seen: list[tuple[str, Any]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    owed: list[tuple[DirectSocket, str]] = field(default_factory=list)

    @property
    def engine(self) -> DirectEngine:
        return self.server.eio

    def sockets(self) -> list[DirectSocket]:
        return list(self.engine.sockets.values())

    def sid(self) -> str:
        """The Socket.IO id of the one client."""
        (socket,) = self.sockets()
        return self.server.manager.sid_from_eio_sid(socket.sid, "/")


@pytest.fixture
def transport() -> str:
    """Which transport a test runs on; see ``on_both``."""
    return "direct"


@pytest.fixture
def ping_s() -> int:
    """Ping interval and time-out, in seconds: by default no ping gets in between."""
    return 20


@pytest.fixture
async def running(transport: str, ping_s: int) -> AsyncIterator[Running]:
    class Server(socketio.AsyncServer):
        def _engineio_server_class(self) -> type:
            return _ENGINES[transport]

    server = Server(
        async_mode="aiohttp",
        async_handlers=False,
        cors_allowed_origins="*",
        ping_interval=ping_s,
        ping_timeout=2 * ping_s,
        max_http_buffer_size=MOST_BYTES,
    )
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    port = any_free()
    await web.TCPSite(runner, LOOPBACK, port).start()
    running = Running(server, f"http://{LOOPBACK}:{port}")
    running.engine.on_dropped = lambda reason, _sid: running.dropped.append(reason)
    running.engine.on_owed = lambda socket, room: running.owed.append((socket, room))

    @server.event
    async def connect(sid: str, _environ: Any, auth: Any = None) -> Any:
        if auth == "refuse":
            return False
        if auth is not None:
            running.seen.append(("connect", auth))
        running.engine.sockets[server.manager.eio_sid_from_sid(sid, "/")].joined = True
        return True

    @server.event
    async def disconnect(sid: str, reason: str) -> None:
        running.seen.append(("disconnect", reason))

    @server.event
    async def say(sid: str, data: Any) -> Any:
        running.seen.append(("say", data))
        if data == "slowly":
            await asyncio.sleep(0.2)
        return data

    @server.event
    async def fail(sid: str) -> None:
        raise RuntimeError("broken handler")

    yield running
    await server.shutdown()
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
