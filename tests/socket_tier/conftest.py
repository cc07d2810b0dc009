"""Browsers and callers for the tests of the socket tier. They talk to the running stack through the balancer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import psycopg2
import pytest

from tests.own_stack import process_number
from tests.socket_tier.browsers import JS_KINDS, POLLING_ONLY, Browser, JsBrowser, NodeProcess, PythonBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.rest import Poll, Rest

NewBrowser = Callable[..., Browser]
HERE = Path(__file__).parent
_STOCK_NODE = pytest.StashKey[ExtraNode]()


@pytest.fixture(scope="session")
def node_process() -> Iterator[NodeProcess]:
    process = NodeProcess()
    yield process
    process.stop()


@pytest.fixture
def transport() -> str:
    """Which transport the node of a test uses; parametrised where the contract must hold on both."""
    return "direct"


@pytest.fixture
def stock_node(request: pytest.FixtureRequest, run_dir: Path) -> ExtraNode:
    """A node with ``node.transport = "stock"`` beside those of the stack, for as long as this folder's tests run."""
    folder = next(parent for parent in request.node.iter_parents() if parent.path == HERE)
    if _STOCK_NODE not in folder.stash:
        log = run_dir / "log" / f"node-stock-of-{process_number()}.log"
        folder.stash[_STOCK_NODE] = ExtraNode("node-stock", log, NODE__TRANSPORT="stock")
        folder.addfinalizer(folder.stash[_STOCK_NODE].stop)
    return folder.stash[_STOCK_NODE]


@pytest.fixture
def base_url(request: pytest.FixtureRequest, transport: str, base_url: str) -> str:
    """Where browsers would reach the service: the load balancer, or the node on the stock transport."""
    return base_url if transport == "direct" else request.getfixturevalue("stock_node").url


@pytest.fixture
def node_urls(request: pytest.FixtureRequest, transport: str, node_urls: list[str]) -> list[str]:
    """Each node by itself; the first is the one on the stock transport where that is asked for."""
    return node_urls if transport == "direct" else [request.getfixturevalue("stock_node").url, *node_urls[1:]]


@pytest.fixture
def kind() -> str:
    """Which client a test uses; parametrised where the contract must hold for all of them."""
    return "python"


@pytest.fixture
async def new_browser(request: pytest.FixtureRequest, kind: str, base_url: str) -> AsyncIterator[NewBrowser]:
    """Makes browsers: ``new_browser(url=..., jar=..., headers=..., cookies=..., kind=...)``, not yet connected.

    Without a ``jar`` each is a browser of its own, with no cookies but those given. What any of them received
    must be in asyncapi.yaml.
    """
    made: list[Browser] = []
    jars: dict[str, aiohttp.CookieJar] = {}

    def new(
        url: str = base_url,
        *,
        jar: str | None = None,
        headers: dict[str, str] | None = None,
        cookies: dict[str, str] | None = None,
        kind: str = kind,
    ) -> Browser:
        jar = jar or uuid4().hex
        browser: Browser
        if kind in (*JS_KINDS, POLLING_ONLY):
            node_process = request.getfixturevalue("node_process")
            browser = JsBrowser(node_process, kind, url, jar, headers or {}, cookies or {})
        else:
            shared = jars.setdefault(jar, aiohttp.CookieJar(unsafe=True))
            browser = PythonBrowser(shared, url, jar, headers or {}, cookies or {})
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
def node_pids(request: pytest.FixtureRequest, transport: str, run_dir: Path) -> Callable[[], list[int | None]]:
    """Reads the process ids of the nodes, in the order of their names."""
    stock = [] if transport == "direct" else [request.getfixturevalue("stock_node")]
    files = sorted((run_dir / "pids").glob("node-*.pid"))
    return lambda: [*(int(file.read_text()) for file in files), *(node.pid() for node in stock)]


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
