"""Browsers and callers for the tests of the socket tier. They talk to the running stack through the balancer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import psycopg2
import pytest

from tests.socket_tier.browsers import JS_KINDS, Browser, JsBrowser, NodeProcess, PythonBrowser
from tests.socket_tier.rest import Poll, Rest

NewBrowser = Callable[..., Browser]


@pytest.fixture(scope="session")
def node_process() -> Iterator[NodeProcess]:
    process = NodeProcess()
    yield process
    process.stop()


@pytest.fixture
def kind() -> str:
    """Which client a test uses; parametrised where the contract must hold for all of them."""
    return "python"


@pytest.fixture
async def new_browser(request: pytest.FixtureRequest, kind: str, base_url: str) -> AsyncIterator[NewBrowser]:
    """Makes browsers: ``new_browser(url=..., jar=..., headers=..., kind=...)``, not yet connected.

    Without a ``jar`` each is a browser of its own, with no cookies yet. What any of them received must be in
    asyncapi.yaml.
    """
    made: list[Browser] = []
    cookies: dict[str, aiohttp.CookieJar] = {}

    def new(
        url: str = base_url, *, jar: str | None = None, headers: dict[str, str] | None = None, kind: str = kind
    ) -> Browser:
        jar = jar or uuid4().hex
        browser: Browser
        if kind in JS_KINDS:
            browser = JsBrowser(request.getfixturevalue("node_process"), kind, url, jar, headers or {})
        else:
            shared = cookies.setdefault(jar, aiohttp.CookieJar(unsafe=True))
            browser = PythonBrowser(shared, url, jar, headers or {})
        made.append(browser)
        return browser

    yield new
    for browser in made:
        await browser.close()
    faults = [fault for browser in made for fault in browser.faults]
    assert not faults, "\n".join(faults)


@pytest.fixture
async def browser(new_browser: NewBrowser) -> Browser:
    """One connected browser."""
    return await new_browser().connect()


@pytest.fixture
async def rest(base_url: str) -> AsyncIterator[Rest]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Rest(session, base_url)


@pytest.fixture
async def poll(rest: Rest) -> Poll:
    """A poll with three options that is open."""
    return await rest.open_poll()


@pytest.fixture
async def host(new_browser: NewBrowser, poll: Poll) -> Browser:
    """The open poll's host, in its room."""
    browser = await new_browser().connect()
    ack = await browser.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
    assert ack["role"] == "host"
    return browser


@pytest.fixture
def node_pids(run_dir: Path, node_urls: list[str]) -> Callable[[], list[int]]:
    """Reads the process ids of the nodes."""
    return lambda: [int((run_dir / "pids" / f"node-{n}.pid").read_text()) for n in range(1, len(node_urls) + 1)]


@pytest.fixture
def stored_votes(database_url: str) -> Callable[[str], dict[str, int]]:
    """Reads the votes table of one room: participant id to option index."""

    def read(room_code: str) -> dict[str, int]:
        connection = psycopg2.connect(database_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT participant_id, option_index FROM votes JOIN polls ON polls.id = poll_id"
                    " WHERE room_code = %s",
                    (room_code,),
                )
                return {str(participant): option for participant, option in cursor.fetchall()}
        finally:
            connection.close()

    return read
