"""Clients that speak Engine.IO by hand, packet by packet."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.socket_tier.waiting import PATIENCE_S

on_both = pytest.mark.parametrize("transport", ["direct", "stock"])
quick_pings = pytest.mark.parametrize("ping_s", [1])

ENDPOINT = "/socket.io/?EIO=4&transport="
NOOP = "6"
_SEPARATOR = "\x1e"


async def open_socket(http: aiohttp.ClientSession, url: str, sid: str | None = None) -> aiohttp.ClientWebSocketResponse:
    """A WebSocket: a session of its own, whose opening packet is read, or one for a session that exists."""
    if sid is not None:
        return await http.ws_connect(f"{url}{ENDPOINT}websocket&sid={sid}")
    ws = await http.ws_connect(f"{url}{ENDPOINT}websocket")
    assert (await ws.receive_str()).startswith("0{")
    return ws


async def connect(http: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    """A WebSocket that has finished the Socket.IO CONNECT."""
    ws = await open_socket(http, url)
    await ws.send_str("40")
    assert (await ws.receive_str()).startswith("40{")
    return ws


async def answers(ws: aiohttp.ClientWebSocketResponse, *packets: str | bytes) -> list[str | bytes]:
    """All that comes back between sending these packets and the answer to one more, NOOPs aside."""
    for packet in packets:
        await (ws.send_bytes(packet) if isinstance(packet, bytes) else ws.send_str(packet))
    await ws.send_str('4299["say","that is all"]')
    received: list[str | bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await ws.receive()
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), (message, received)
            if message.data == '4399["that is all"]':
                return received
            if message.data != NOOP:
                received.append(message.data)


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code with which the server closes, once it does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await ws.receive()
            if message.type is aiohttp.WSMsgType.CLOSE:
                code: int = message.data
                return code
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                return ws.close_code


class Poller:
    """A session that polls."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}{ENDPOINT}polling"
        self.opening: dict[str, Any] = {}

    @property
    def sid(self) -> str:
        sid: str = self.opening["sid"]
        return sid

    async def open(self, *, connect: bool = True) -> "Poller":
        async with self._http.get(self._url) as response:
            self.opening = json.loads((await response.text()).removeprefix("0"))
        self._url += f"&sid={self.sid}"
        if connect:
            assert await self.send("40") == 200
            (connected,) = await self.poll()
            assert connected.startswith("40{")
        return self

    async def poll(self) -> list[str]:
        """The packets of one poll; its status, as text, when it is refused."""
        async with asyncio.timeout(PATIENCE_S), self._http.get(self._url) as response:
            text = await response.text()
            return text.split(_SEPARATOR) if response.status == 200 else [str(response.status)]

    def hang(self) -> "asyncio.Task[list[str]]":
        """A poll that waits for something to come."""
        return asyncio.create_task(self.poll(), name="poll")

    async def send(self, *packets: str) -> int:
        """The status of one POST with these packets."""
        async with asyncio.timeout(PATIENCE_S), self._http.post(self._url, data=_SEPARATOR.join(packets)) as response:
            return response.status
