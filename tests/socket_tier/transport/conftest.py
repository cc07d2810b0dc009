"""A Socket.IO server of its own on the direct transport, without the rest of a node."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from scripts.stack.ports import LOOPBACK, next_free
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.engine import DirectEngine

HANDSHAKE = "/socket.io/?EIO=4&transport=websocket"


class DirectServer(socketio.AsyncServer):
    def _engineio_server_class(self) -> type[DirectEngine]:
        return DirectEngine


@dataclass
class Running:
    """The server, and what its handlers have seen."""

    server: DirectServer
    url: str
    seen: list[tuple[str, Any]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    owed: list[tuple[DirectSocket, str]] = field(default_factory=list)

    @property
    def engine(self) -> DirectEngine:
        return self.server.eio

    def sockets(self) -> list[DirectSocket]:
        return list(self.engine.sockets.values())


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    server = DirectServer(
        async_mode="aiohttp",
        async_handlers=False,
        cors_allowed_origins="*",
        ping_interval=1,
        ping_timeout=1,
        max_http_buffer_size=5000,
    )
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    port = next_free(23000)
    await web.TCPSite(runner, LOOPBACK, port).start()
    running = Running(server, f"http://{LOOPBACK}:{port}")
    running.engine.on_dropped = running.dropped.append
    running.engine.on_owed = lambda socket, room: running.owed.append((socket, room))

    @server.event
    async def connect(sid: str, _environ: Any, _auth: Any = None) -> None:
        running.engine.sockets[server.manager.eio_sid_from_sid(sid, "/")].joined = True

    @server.event
    async def disconnect(sid: str, reason: str) -> None:
        running.seen.append(("disconnect", reason))

    @server.event
    async def say(sid: str, data: Any) -> Any:
        running.seen.append(("say", data))
        if data == "slowly":
            await asyncio.sleep(0.2)
        return data

    yield running
    await server.shutdown()
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
