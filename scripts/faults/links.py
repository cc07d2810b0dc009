"""TCP links whose connections are halved: one end's is aborted, the other end's stays open and hears nothing more.

So does a link that a firewall, a failing switch or a machine without power leaves behind. A link's target can move,
too: what is connected stays where it is, as with a virtual IP whose old holder lives on.

``python -m scripts.faults.links CONTROL_PORT NAME=PORT-TARGET_PORT ...`` runs those of a stack (scripts/up --links);
``Control`` is how to halve them.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

PROCESS, SERVER = "process", "server"
"""Whose end dies: that of our process, which connected, or the server's."""

_ENDS_WITHIN_S = 5.0
_ANSWERS_WITHIN_S = 5.0
_LONGEST_ORDER = 200


@dataclass(eq=False)
class _Pair:
    process: asyncio.StreamWriter
    server: asyncio.StreamWriter
    halved: bool = False

    def abort(self) -> None:
        self.process.transport.abort()
        self.server.transport.abort()


class Link:
    """A port on the loopback interface that leads to ``target`` (host, port). To be used on one event loop."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.port = port
        self.target = target
        self._pairs: set[_Pair] = set()
        self._passing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """:raises OSError: the port is taken"""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        """End all connections, too."""
        self._listening.close()
        for pair in self._pairs:
            pair.abort()
        if self._passing:
            await asyncio.wait(self._passing, timeout=_ENDS_WITHIN_S)

    def halve(self, dying: str) -> int:
        """End one side of each connection, ``PROCESS`` or ``SERVER``, and keep the other; how many there were."""
        whole = [pair for pair in self._pairs if not pair.halved]
        for pair in whole:
            pair.halved = True
            (pair.process if dying == PROCESS else pair.server).transport.abort()
        return len(whole)

    def mend(self) -> None:
        """End the halves that were kept."""
        for pair in self._pairs:
            if pair.halved:
                pair.abort()

    async def _accept(self, from_process: asyncio.StreamReader, to_process: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self.target)
        except OSError:
            to_process.transport.abort()
            return
        pair = _Pair(to_process, to_server)
        self._pairs.add(pair)
        ways = ((from_process, to_server), (from_server, to_process))
        passing = [asyncio.create_task(self._pass_on(*way, pair), name="link") for way in ways]
        self._passing.update(passing)
        await asyncio.wait(passing)
        self._passing.difference_update(passing)
        self._pairs.discard(pair)

    @staticmethod
    async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, pair: _Pair) -> None:
        """Until the source ends. What the kept half of a pair sends is read, and goes nowhere."""
        with suppress(OSError):
            while data := await source.read(65536):
                if pair.halved:
                    continue
                target.write(data)
                with suppress(OSError):  # it ended; then so does the source, unless they are halves by now
                    await target.drain()
        if not pair.halved:
            target.close()


class NoAnswer(Exception):
    """Nobody serves the links."""


class Control:
    """Gives orders to the process that serves a stack's links."""

    def __init__(self, port: int) -> None:
        self._port = port

    def halve(self, name: str, dying: str) -> int:
        """See ``Link.halve``.

        :raises NoAnswer:
        """
        return self._order(f"halve {name} {dying}")

    def mend(self, name: str = "") -> None:
        """End the halves of one link, or of all.

        :raises NoAnswer:
        """
        self._order(f"mend {name}")

    def _order(self, order: str) -> int:
        try:
            with socket.create_connection(("127.0.0.1", self._port), _ANSWERS_WITHIN_S) as connection:
                connection.sendall(order.encode() + b"\n")
                return int(connection.makefile().readline())
        except (OSError, ValueError) as error:
            raise NoAnswer(f"links: {order}: {error}") from error


async def serve(control_port: int, links: dict[str, Link]) -> None:
    """Open all links and obey ``Control``, until cancelled."""

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode().split()
        named = [links[name] for name in words[1:2]] or list(links.values())
        if words[:1] == ["halve"]:
            count = sum(link.halve(words[2]) for link in named)
        else:
            count = len(named)
            for link in named:
                link.mend()
        writer.write(b"%d\n" % count)
        await writer.drain()
        writer.close()

    for link in links.values():
        await link.open()
    server = await asyncio.start_server(obey, "127.0.0.1", control_port, limit=_LONGEST_ORDER)
    await server.serve_forever()


def main(words: list[str]) -> None:
    links = {}
    for word in words[1:]:
        name, _, way = word.rpartition("=")
        port, _, target = way.partition("-")
        links[name] = Link(int(port), ("127.0.0.1", int(target)))
    asyncio.run(serve(int(words[0]), links))


if __name__ == "__main__":
    main(sys.argv[1:])
