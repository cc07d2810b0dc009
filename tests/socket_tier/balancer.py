"""The load balancer as its users and its operator see it: where a browser lands, which node it has taken out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.socket_tier.rest import Poll
from tests.socket_tier.transport.clients import open_socket
from tests.socket_tier.waiting import eventually

COOKIE = "votemill-node"


class Balancer:
    """HAProxy of the test stack."""

    def __init__(self, url: str, logs: Path) -> None:
        self.url = url
        self._logs = logs
        self._log = logs / "haproxy.log"

    async def cookies(self, nodes: int) -> list[str]:
        """A cookie for each node, in no order."""
        found: set[str] = set()
        async with AsyncExitStack() as held:  # so that the next one goes elsewhere

            async def all_seen() -> bool:
                jar = aiohttp.CookieJar(unsafe=True)
                session = await held.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
                held.push_async_callback((await open_socket(session, self.url)).close)
                found.update(cookie.value for cookie in jar if cookie.key == COOKIE)
                return len(found) == nodes

            await eventually(all_seen, f"cookies of {nodes} nodes")
        return sorted(found)

    async def behind(self, cookie: str) -> str:
        """The node that a cookie leads to, by its log."""
        async with (
            aiohttp.ClientSession(cookies={COOKIE: cookie}) as session,
            session.get(f"{self.url}/api/polls/ABCDEF") as answer,
        ):
            correlation_id = answer.headers["X-Correlation-Id"]

        def node() -> str | None:
            logs = self._logs.glob("node-?.log")
            return next((log.stem for log in logs if correlation_id in log.read_text()), None)

        return await eventually(node, "a node that has served this")

    @asynccontextmanager
    async def says(self, words: str) -> AsyncIterator[None]:
        """What is done in the context makes the balancer log these words; ends when it has."""
        size = self._log.stat().st_size
        yield
        await eventually(lambda: words in self._log.read_text()[size:], f"the balancer to say: {words}", 30)


@dataclass(frozen=True)
class Call:
    """One request and what came of it: a status, or the error's name."""

    caller: int
    what: str
    began: float  # monotonic seconds
    took_s: float
    result: int | str


@dataclass
class Hammer:
    """What came of the requests of several callers, each of which sends one after the other."""

    calls: list[Call] = field(default_factory=list)

    def failed(self, since: float = 0.0) -> list[Call]:
        """Those that began since then and got no proper answer."""
        return [call for call in self.calls if call.began >= since and call.result not in (200, 201)]

    def done(self, since: float) -> Counter[str]:
        """How many of each kind began since then."""
        return Counter(call.what for call in self.calls if call.began >= since)

    def callers(self, since: float) -> int:
        """How many callers have begun something since then, and had an answer."""
        return len({call.caller for call in self.calls if call.began >= since})


@asynccontextmanager
async def hammering(url: str, poll: Poll, *, callers: int = 4) -> AsyncIterator[Hammer]:
    """Within the context callers read, create and change polls without a pause.

    Half of them keep their connections, as browsers do; the others make a new one for each request.
    """
    hammer, stop = Hammer(), asyncio.Event()
    requests = [
        ("read", "GET", f"/api/polls/{poll.code}", None),
        ("page", "GET", "/", None),
        ("create", "POST", "/api/polls", {"question": "Still there?", "options": ["Yes", "No"]}),
        ("change", "POST", f"/api/polls/{poll.code}/state", {"newState": "open"}),
    ]
    authorization = {"Authorization": f"Bearer {poll.host_token}"}

    async def call(number: int) -> None:
        connector = aiohttp.TCPConnector(force_close=number % 2 == 1)
        async with aiohttp.ClientSession(
            url, connector=connector, headers=authorization, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            turn = number
            while not stop.is_set():
                what, method, path, body = requests[turn % len(requests)]
                turn += 1
                began = time.monotonic()
                try:
                    async with session.request(method, path, json=body) as answer:
                        await answer.read()
                        result: int | str = answer.status
                except aiohttp.ClientError as error:
                    result = type(error).__name__
                hammer.calls.append(Call(number, what, began, time.monotonic() - began, result))
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(call(number), name=f"caller-{number}") for number in range(callers)]
    try:
        yield hammer
    finally:
        stop.set()
        await asyncio.gather(*tasks)
