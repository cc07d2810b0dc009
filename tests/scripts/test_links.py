"""Half-dead links: one end is gone, the other is kept and hears nothing; a moved target leaves what is connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from scripts.faults.links import PROCESS, SERVER, Control, Link, NoAnswer, serve
from scripts.stack import ports

WAIT_S = 20.0


class Greeter:
    """A server that greets whoever comes with its name, and remembers the connections."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> Greeter:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # transports close their sockets in the loop's next rounds

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(self._name)
        self.came.put_nowait((reader, writer))


@pytest.fixture
async def greeter() -> AsyncIterator[Greeter]:
    greeter = await Greeter(b"first").start()
    yield greeter
    await greeter.stop()


@pytest.fixture
async def link(greeter: Greeter) -> AsyncIterator[Link]:
    link = Link(ports.any_free(), ("127.0.0.1", greeter.port))
    await link.open()
    yield link
    await link.close()


async def within(work: object) -> bytes:
    return await asyncio.wait_for(work, WAIT_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("dying", [PROCESS, SERVER])
async def test_one_end_is_gone_and_the_other_hears_nothing_until_it_is_mended(
    greeter: Greeter, link: Link, dying: str
) -> None:
    # Given a connection through which both speak
    process = await asyncio.open_connection("127.0.0.1", link.port)
    server = await greeter.came.get()
    assert await within(process[0].readexactly(5)) == b"first"
    process[1].write(b"hello")
    assert await within(server[0].readexactly(5)) == b"hello"
    # When it is halved
    gone, kept = (process, server) if dying == PROCESS else (server, process)
    assert link.halve(dying) == 1
    # Then one end learns it at once
    assert await _ended(gone[0])
    # And the other one may say what it likes, and stays
    kept[1].write(b"is anybody there?")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kept[0].read(1), 0.5)
    # And new connections are whole
    another = await asyncio.open_connection("127.0.0.1", link.port)
    assert await within(another[0].readexactly(5)) == b"first"
    link.mend()
    assert await _ended(kept[0])
    another[1].write(b"still here")
    assert await within((await greeter.came.get())[0].readexactly(10)) == b"still here"
    for _, writer in (process, server, another):
        writer.close()


async def test_a_moved_target_is_for_new_connections(greeter: Greeter, link: Link) -> None:
    second = await Greeter(b"other").start()
    old = await asyncio.open_connection("127.0.0.1", link.port)
    assert await within(old[0].readexactly(5)) == b"first"
    link.target = ("127.0.0.1", second.port)
    new = await asyncio.open_connection("127.0.0.1", link.port)
    assert await within(new[0].readexactly(5)) == b"other"
    old[1].write(b"!")
    assert await within((await greeter.came.get())[0].readexactly(1)) == b"!"
    for _, writer in (old, new):
        writer.close()
    await second.stop()


async def test_orders_reach_the_links_of_a_stack(greeter: Greeter) -> None:
    links = {f"node-{n}:redis": Link(ports.any_free(), ("127.0.0.1", greeter.port)) for n in (1, 2)}
    control = Control(ports.any_free())
    with pytest.raises(NoAnswer):
        await asyncio.to_thread(control.mend)
    serving = asyncio.create_task(serve(control._port, links))
    while not serving.done():
        try:
            await asyncio.to_thread(control.mend)
            break
        except NoAnswer:
            await asyncio.sleep(0.05)
    ends = [await asyncio.open_connection("127.0.0.1", link.port) for link in links.values()]
    for reader, _ in ends:
        assert await within(reader.readexactly(5)) == b"first"
    assert await asyncio.to_thread(control.halve, "node-1:redis", PROCESS) == 1
    assert await _ended(ends[0][0])
    ends[1][1].write(b"whole")
    serving.cancel()
    for link in links.values():
        await link.close()
    for _, writer in ends:
        writer.close()


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), WAIT_S) == b""
    except ConnectionError:
        return True
