"""HTTP requests byte by byte, for those that no client library would send."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.socket_tier.waiting import PATIENCE_S


class RawAnswer(NamedTuple):
    status: int
    head: str
    text: str

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body


def request(method: str, path: str, *headers: bytes, body: bytes = b"") -> bytes:
    """The bytes of a request. ``headers`` are whole lines."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: votemill.example", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"", body])


async def raw_http(url: str, sent: bytes, *, hang_up: bool = False) -> RawAnswer | None:
    """The answer to these bytes; None when the other side hung up without one, or when we do (``hang_up``)."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(sent)
            await writer.drain()
            if hang_up:
                return None
            received = await reader.read()
    except ConnectionError:
        return None
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    head, _, text = received.decode(errors="replace").partition("\r\n\r\n")
    return RawAnswer(int(head.split(" ", 2)[1]), head, text) if head else None
