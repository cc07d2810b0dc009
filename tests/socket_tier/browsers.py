"""Pages as the tests drive them, over each of the official clients. What they receive is held against the documents."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import socketio
from yarl import URL

from tests.socket_tier import contract
from tests.socket_tier.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).resolve().parents[2]
JS_KINDS = ("js-polling-first", "js-websocket")
POLLING_ONLY = "js-polling"
KINDS = (*JS_KINDS, "python")
# The contract holds for each official client, and on the fallback transport as well.
both_transports = pytest.mark.parametrize("transport", ["direct", "stock"])
every_client = pytest.mark.parametrize(
    ("kind", "transport"),
    [*((kind, "direct") for kind in KINDS), ("js-polling-first", "stock")],
)
_INTERNALS = re.compile(r"Traceback|\.py(?![\w-])|psycopg|SELECT |INSERT |socket_tier|site-packages")

Ack = dict[str, Any]


class Event(NamedTuple):
    name: str
    payload: Any
    at: float  # monotonic seconds


class Browser(ABC):
    """One page's socket.

    ``connections`` counts successful connects, ``transports`` names the transports in the order of their use.
    """

    def __init__(self, url: str, jar: str, headers: dict[str, str], cookies: dict[str, str]) -> None:
        self.url = url
        self.jar = jar
        self.headers = headers
        self.cookies = cookies
        self.events: list[Event] = []
        self.transports: list[str] = []
        self.faults: list[str] = []
        self.refusals: list[str] = []
        self.connections = 0
        self.connected = False

    @abstractmethod
    async def open(self) -> None:
        """Begin to connect."""

    @abstractmethod
    async def close(self) -> None:
        """The page is closed."""

    @abstractmethod
    async def cut(self) -> None:
        """The network is lost; the client comes back by itself."""

    @abstractmethod
    async def emit(self, event: str, *args: Any) -> None:
        """Send without asking for an ack."""

    @abstractmethod
    async def _call(self, event: str, args: tuple[Any, ...]) -> list[Any]: ...

    async def connect(self) -> Browser:
        before = self.connections
        await self.open()
        await eventually(lambda: self.connections > before, f"connected to {self.url} ({self.refusals})")
        return self

    async def call(self, event: str, *args: Any) -> Ack:
        """Send, and wait for the one object of the ack."""
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._call(event, args)
        contract.check_ack(event, answer)
        assert_no_internals(answer)
        ack: Ack = answer[0]
        return ack

    async def join(self, code: str, nickname: str, token: str | None = None) -> Ack:
        """Join as a participant, successfully."""
        request = {"roomCode": code, "nickname": nickname}
        if token is not None:
            request["participantToken"] = token
        ack = await self.call("join-room", request)
        assert ack["success"], ack
        return ack

    async def vote(self, code: str, joined: Ack, option: int, **more: Any) -> Ack:
        request = {"roomCode": code, "participantId": joined["participantId"], "optionIndex": option, **more}
        return await self.call("submit-vote", request)

    async def change(self, code: str, state: str, **more: Any) -> Ack:
        return await self.call("change-poll-state", {"roomCode": code, "newState": state, **more})

    def heard(self, name: str, **fields: Any) -> list[Any]:
        """Payloads of an event so far, those with these values."""
        return [
            event.payload
            for event in list(self.events)
            if event.name == name and all(event.payload.get(key) == value for key, value in fields.items())
        ]

    async def hears(self, name: str, within_s: float = PATIENCE_S, **fields: Any) -> Any:
        """The last payload of an event with these values, once there is one."""
        wanted = f"{name} with {fields}"
        try:
            return (await eventually(lambda: self.heard(name, **fields), wanted, within_s))[-1]
        except AssertionError:
            raise AssertionError(f"not heard: {wanted}; heard {self.events[-12:]}") from None

    def _received(self, name: str, args: list[Any]) -> None:
        try:
            contract.check_event(name, args)
        except contract.ContractBroken as broken:
            self.faults.append(str(broken))
        self.events.append(Event(name, args[0] if args else None, time.monotonic()))


def assert_no_internals(answer: Any) -> None:
    """What a browser is told has no stack trace, no file and no SQL in it."""
    text = json.dumps(answer, default=str)
    assert not _INTERNALS.search(text), text


class NodeProcess:
    """The Node.js process in which all JavaScript clients of a test run live."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._listeners: dict[str, tuple[asyncio.AbstractEventLoop, Callable[[dict[str, Any]], None]]] = {}
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            ["node", str(ROOT / "tests/js/browsers.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, name="node-reader", daemon=True)
        self._reader.start()
        assert self._ready.wait(30), "Node.js has not started"

    def number(self) -> int:
        return next(self._numbers)

    def listen(self, client: str, heard: Callable[[dict[str, Any]], None]) -> None:
        """Have what happens to a client told in the running event loop."""
        self._listeners[client] = (asyncio.get_running_loop(), heard)

    def forget(self, client: str) -> None:
        self._listeners.pop(client, None)

    def tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.join(10)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["is"] == "ready":
                self._ready.set()
                continue
            listener = self._listeners.get(message["id"])
            if listener is not None and not listener[0].is_closed():
                listener[0].call_soon_threadsafe(listener[1], message)


class JsBrowser(Browser):
    """socket.io-client."""

    def __init__(
        self, node: NodeProcess, kind: str, url: str, jar: str, headers: dict[str, str], cookies: dict[str, str]
    ) -> None:
        super().__init__(url, jar, headers, cookies)
        self._node = node
        self._kind = kind
        self._id = f"client-{node.number()}"
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}

    async def open(self) -> None:
        self._node.listen(self._id, self._happened)
        self._tell("connect", url=self.url, kind=self._kind, jar=self.jar, headers=self.headers, cookies=self.cookies)

    async def close(self) -> None:
        self._tell("close")
        self._node.forget(self._id)
        self.connected = False

    async def cut(self) -> None:
        self._tell("cut")
        await eventually(lambda: not self.connected, "disconnected")

    async def emit(self, event: str, *args: Any) -> None:
        self._tell("emit", event=event, args=args)

    async def _call(self, event: str, args: tuple[Any, ...]) -> list[Any]:
        number = self._node.number()
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._tell("call", call=number, event=event, args=args)
        return await answer

    def _tell(self, what: str, **more: Any) -> None:
        self._node.tell({"do": what, "id": self._id, **more})

    def _happened(self, message: dict[str, Any]) -> None:
        match message["is"]:
            case "connected":
                self.connections += 1
                self.connected = True
            case "disconnected":
                self.connected = False
            case "refused":
                self.refusals.append(message["reason"])
            case "transport":
                self.transports.append(message["name"])
            case "event":
                self._received(message["name"], message["args"])
            case "ack":
                answer = self._answers.pop(message["call"])
                if not answer.done():
                    answer.set_result(message["args"])


class PythonBrowser(Browser):
    """python-socketio's client. Tabs with the same jar share ``cookies``."""

    def __init__(
        self, shared: aiohttp.CookieJar, url: str, jar: str, headers: dict[str, str], cookies: dict[str, str]
    ) -> None:
        super().__init__(url, jar, headers, cookies)
        shared.update_cookies(cookies, URL(url))
        self._http = aiohttp.ClientSession(cookie_jar=shared)
        self._client = socketio.AsyncClient(
            http_session=self._http, reconnection_delay=1, reconnection_delay_max=5, handle_sigint=False
        )
        self._client.on("connect", self._on_connect)
        self._client.on("disconnect", self._on_disconnect)
        self._client.on("*", self._on_event)

    async def open(self) -> None:
        try:
            await self._client.connect(
                self.url, headers=self.headers, transports=["websocket"], wait_timeout=PATIENCE_S
            )
        except socketio.exceptions.ConnectionError as error:
            self.refusals.append(str(error))

    async def close(self) -> None:
        await asyncio.sleep(0)  # a reconnect that is due begins now: only then can it be called off
        await self._client.shutdown()
        await self._http.close()

    async def cut(self) -> None:
        await self._client.eio.ws.close()
        await eventually(lambda: not self.connected, "disconnected")

    async def emit(self, event: str, *args: Any) -> None:
        await self._client.emit(event, args)

    async def _call(self, event: str, args: tuple[Any, ...]) -> list[Any]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def answered(*values: Any) -> None:
            if answer.done():
                self.faults.append(f"{event} was answered twice")
            else:
                answer.set_result(list(values))

        await self._client.emit(event, args, callback=answered)
        return await answer

    def _on_connect(self) -> None:
        self.connections += 1
        self.connected = True
        self.transports.append(self._client.transport())

    def _on_disconnect(self, *_reason: Any) -> None:
        self.connected = False

    def _on_event(self, name: str, *args: Any) -> None:
        self._received(name, list(args))
