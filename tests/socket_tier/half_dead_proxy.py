"""A TCP proxy before a server whose connections can die for one side alone, or in one direction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from scripts.stack import ports


@dataclass(eq=False)
class _Connection:
    near: asyncio.StreamWriter  # to the client
    far: asyncio.StreamWriter  # to the server
    said: bytes = b""  # the client's first words, which hold its name
    deaf: bool = False
    mute: bool = False
    near_is_gone: bool = False


class HalfDeadProxy:
    """Connections are named by what the client says first, such as the connection name of an AMQP client."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._connections: list[_Connection] = []
        self._forwards: list[asyncio.Task[None]] = []
        self._next_is_deaf_after: bytes | None = None
        self.deafened = 0  # of those that were to be deaf from a word on

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
        for connection in self._connections:
            connection.near.transport.abort()
            connection.far.transport.abort()
        await asyncio.gather(*self._forwards)

    def cut_near_side(self, name: str) -> None:
        """The client loses its connections; the server takes them for good ones."""
        for connection in self._named(name):
            connection.near_is_gone = True
            connection.near.transport.abort()

    def deafen(self, name: str) -> None:
        """What the server says to these connections is lost from now on; both sides take them for good ones."""
        for connection in self._named(name):
            connection.deaf = True

    def deafen_next(self, word: str) -> None:
        """Likewise for the next connection over which the client says this word, from then on."""
        self._next_is_deaf_after = word.encode()

    def mute(self, name: str) -> None:
        """What these clients say is lost from now on, likewise."""
        for connection in self._named(name):
            connection.mute = True

    def has_good(self, name: str) -> bool:
        """Whether a connection of this name is up in both directions."""
        return any(not one.deaf and not one.mute for one in self._up(name))

    def _up(self, name: str) -> list[_Connection]:
        return [one for one in self._connections if name.encode() in one.said and not one.near.transport.is_closing()]

    def _named(self, name: str) -> list[_Connection]:
        found = self._up(name)
        assert found, f"no connection says {name}"
        return found

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        from_server, far = await asyncio.open_connection(self._target.hostname, self._target.port)
        connection = _Connection(near, far)
        self._connections.append(connection)
        self._forwards += [
            asyncio.create_task(self._to_server(reader, connection)),
            asyncio.create_task(self._to_client(from_server, connection)),
        ]

    async def _to_server(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        try:
            while data := await reader.read(65536):
                if len(connection.said) < 4096:
                    connection.said += data
                if self._next_is_deaf_after is not None and self._next_is_deaf_after in data:
                    self._next_is_deaf_after = None
                    connection.deaf = True
                    self.deafened += 1
                if not connection.mute:
                    connection.far.write(data)
        except ConnectionError:
            pass  # one side has gone, as sides do here
        if not connection.near_is_gone:
            connection.far.close()

    async def _to_client(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        try:
            while data := await reader.read(65536):
                if not connection.deaf and not connection.near_is_gone:
                    connection.near.write(data)
        except ConnectionError:
            pass
        connection.near.close()
