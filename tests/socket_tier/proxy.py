"""A TCP proxy before a server whose answers can be held back and whose connections can be cut or refused."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit

from scripts.stack import ports


class Proxy:
    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self._answers = asyncio.Event()
        self._answers.set()
        self._forwards: list[asyncio.Task[None]] = []
        self._away = False
        self.refused = 0  # connections, while away

    @property
    def url(self) -> str:
        """The server's address by way of this proxy."""
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    async def start(self) -> None:
        self._port = ports.any_free()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def stop(self) -> None:
        self._server.close()
        self.let_answers_through()
        self.cut()
        await asyncio.gather(*self._forwards, return_exceptions=True)

    def hold_answers(self) -> None:
        """What the server says is not passed on; what it is told is."""
        self._answers.clear()

    def let_answers_through(self) -> None:
        self._answers.set()

    def cut(self) -> None:
        """End all connections, with what is held back."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def go_away(self) -> None:
        """End all connections, and each new one at once, until ``come_back``."""
        self._away = True
        self.cut()

    def come_back(self) -> None:
        self._away = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            self.refused += 1
            writer.transport.abort()
            return
        assert self._target.hostname is not None
        to_server, from_server = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers += [writer, from_server]
        self._forwards += [
            asyncio.create_task(self._forward(reader, from_server, None)),
            asyncio.create_task(self._forward(to_server, writer, self._answers)),
        ]

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event | None
    ) -> None:
        try:
            while data := await source.read(65536):
                if gate is not None:
                    await gate.wait()
                target.write(data)
        except OSError:
            pass
        finally:
            target.close()
