"""Property: no JSON whatever breaks the node. Hypothesis makes it up; one connection is used for all of it."""

import asyncio
import json
import string
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Rest
from tests.socket_tier.test_malformed_events import EVENTS

_TEXT = st.text(max_size=60)
_LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
_KEYS = st.sampled_from(
    ["roomCode", "nickname", "participantToken", "participantId", "optionIndex", "commandId", "newState", "hostToken",
     "viewer", "question", "options", "__class__", ""]
) | _TEXT  # fmt: skip
_JSON = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12
)
_CODES = st.text(alphabet=string.ascii_uppercase + string.digits, min_size=6, max_size=6)
_NEARLY_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "roomCode": _CODES | _LEAF,
        "nickname": _TEXT,
        "participantId": st.uuids().map(str) | _LEAF,
        "optionIndex": st.integers() | _LEAF,
        "newState": st.sampled_from(["open", "closed", "waiting"]) | _LEAF,
        "hostToken": _LEAF,
        "participantToken": _LEAF,
    },
)
_bounded = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


class Connections:
    """A raw socket and a REST caller on an event loop of their own: hypothesis calls from outside of any."""

    def __init__(self, base_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="hypothesis-loop")
        self._thread.start()
        self._stop: asyncio.Event
        ready: Future[None] = Future()
        self._done = asyncio.run_coroutine_threadsafe(self._hold(base_url, ready), self._loop)
        ready.result(30)
        self.socket: RawSocket
        self.rest: Rest

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._done.result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _hold(self, base_url: str, ready: "Future[None]") -> None:
        self._stop = asyncio.Event()
        async with raw_socket(base_url) as self.socket, aiohttp.ClientSession() as session:
            self.rest = Rest(session, base_url)
            ready.set_result(None)
            await self._stop.wait()


@pytest.fixture
def connections(base_url: str) -> Iterator[Connections]:
    made = Connections(base_url)
    yield made
    made.close()


@pytest.mark.proves("FR-008", "FR-039")
@pytest.mark.parametrize("event", EVENTS)
def test_any_payload_gets_exactly_one_answer(
    connections: Connections, node_pids: Callable[[], list[int | None]], event: str
) -> None:
    before = node_pids()

    @_bounded
    @given(payload=_JSON | _NEARLY_RIGHT)
    def is_answered(payload: Any) -> None:
        answer = connections.run(connections.socket.refusal(event, json.dumps(payload)))
        assert not answer["success"]
        assert answer["code"] != "internal_error"

    is_answered()
    assert node_pids() == before


@pytest.mark.proves("FR-008", "FR-039")
def test_any_body_creates_a_poll_or_is_refused(
    connections: Connections, node_pids: Callable[[], list[int | None]]
) -> None:
    before = node_pids()
    poll = st.fixed_dictionaries({"question": _TEXT, "options": st.lists(_TEXT, max_size=7)})

    @_bounded
    @given(body=_JSON | poll)
    def is_answered(body: Any) -> None:
        call = connections.rest.request(
            "POST", "/api/polls", data=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        answer = connections.run(call)
        assert answer.status in (201, 400)
        if answer.status == 201:
            assert answer.body["question"] == body["question"].strip()
            assert answer.body["options"] == [option.strip() for option in body["options"]]

    is_answered()
    assert node_pids() == before
