"""A WebSocket that speaks Engine.IO by hand, for packets that no client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.socket_tier import contract
from tests.socket_tier.browsers import assert_no_internals
from tests.socket_tier.waiting import PATIENCE_S

_SETTLED_S = 0.15  # a second ack would follow at once


class RawSocket:
    """Sends text as it is. ``packets`` are those received, pings aside; ``closed`` when the other side hung up."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ack = 0
        self.packets: list[str] = []
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(), name="raw-socket")

    async def send(self, packet: str | bytes) -> None:
        if isinstance(packet, bytes):
            await self._socket.send_bytes(packet)
        else:
            await self._socket.send_str(packet)

    async def connect(self) -> None:
        """Into the default namespace."""
        await self.send("40")
        await self.receive("40")

    async def receive(self, start: str) -> str:
        """The first packet that begins so."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for packet in self.packets:
                    if packet.startswith(start):
                        return packet
                assert not self.closed.is_set(), f"closed without {start}: {self.packets[-5:]}"
                self._news.clear()
                await self._news.wait()

    def numbered(self) -> int:
        """A new ack id."""
        self._ack += 1
        return self._ack

    async def refusal(self, event: str, *arguments: str, settled_s: float = 0.0) -> dict[str, Any]:
        """Send an event whose arguments are JSON texts; the one refusal that answers it."""
        number = self.numbered()
        await self.send(f"42{number}[{','.join([json.dumps(event), *arguments])}]")
        return await self.answer(event, number, settled_s)

    async def call(self, event: str, payload: Any) -> dict[str, Any]:
        """Send an event; its ack."""
        return await self.refusal(event, json.dumps(payload))

    async def answer(self, event: str, number: int, settled_s: float = 0.0) -> dict[str, Any]:
        """The one ack of that number, held against the documents."""
        head = f"43{number}["
        await self.receive(head)
        await asyncio.sleep(settled_s)
        answers = [json.loads(packet[len(head) - 1 :]) for packet in self.packets if packet.startswith(head)]
        assert len(answers) == 1, answers
        contract.check_ack(event, answers[0])
        assert_no_internals(answers[0])
        answer: dict[str, Any] = answers[0][0]
        return answer

    async def close(self) -> None:
        await self._socket.close()
        await self._reading

    async def _read(self) -> None:
        async for message in self._socket:
            if message.data == "2":
                await self._socket.send_str("3")
            elif isinstance(message.data, str):
                self.packets.append(message.data)
                self._news.set()
        self.closed.set()
        self._news.set()


@asynccontextmanager
async def raw_socket(
    url: str,
    *,
    connect: bool = True,
    cookies: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[RawSocket]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookies=cookies, cookie_jar=jar, headers=headers) as session:
        address = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        socket = RawSocket(await session.ws_connect(address, max_msg_size=0))
        await socket.receive("0")
        if connect:
            await socket.connect()
        try:
            yield socket
        finally:
            await socket.close()
