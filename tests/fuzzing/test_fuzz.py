"""Whatever comes from outside: one answer or the end of that connection, and nobody else notices."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks

from tests.fuzzing import decoders, inputs
from tests.fuzzing.conftest import LONG, SEED, seconds_for, tell
from tests.fuzzing.rounds import for_seconds
from tests.security.conftest import ROOT, GuardedNode
from tests.security.raw_http import raw_http, request
from tests.socket_tier import contract
from tests.socket_tier.browsers import assert_no_internals
from tests.socket_tier.raw_socket import RawSocket, raw_socket
from tests.socket_tier.rest import Rest
from tests.socket_tier.test_arbitrary_payloads import Connections

_ENGINE = "/socket.io/?EIO=4&transport="
_SEPARATOR = b"\x1e"


class Stage:
    """The node, a loop to talk to it on, and somebody who takes part in a poll there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connections = Connections(url)
        self.run = self._connections.run
        self._opened = AsyncExitStack()
        self.socket: RawSocket
        self.known: inputs.Known

    def begin(self) -> None:
        """A fresh socket: an old one's ever longer list of packets would slow its own checks."""
        self.run(self._begin())

    async def _begin(self) -> None:
        rest: Rest = self._connections.rest
        poll, other = await rest.open_poll(), await rest.create()
        await self._opened.aclose()
        self.socket = await self._opened.enter_async_context(raw_socket(self.url))
        joined = await self.socket.call("join-room", {"roomCode": poll.code, "nickname": "Ada"})
        self.known = inputs.Known(poll, other, joined["participantId"], joined["participantToken"])

    def still_works(self) -> None:
        self.begin()
        poll = self.known.poll
        vote = {"roomCode": poll.code, "participantId": self.known.participant_id, "optionIndex": 1}
        assert self.run(self.socket.call("submit-vote", vote))["success"]

    def close(self) -> None:
        self.run(self._opened.aclose())
        self._connections.close()


@pytest.fixture
def stage(node: GuardedNode) -> Iterator[Stage]:
    made = Stage(node.url)
    made.begin()
    yield made
    made.still_works()
    made.close()


@pytest.mark.proves("FR-008", "FR-039")
def test_any_event_gets_one_answer(stage: Stage) -> None:
    def check(sent: inputs.Sent) -> None:
        answer = stage.run(stage.socket.refusal(sent.event, *sent.arguments))
        assert answer.get("code") != "internal_error"

    events = st.deferred(lambda: inputs.events(stage.known))
    count = for_seconds(seconds_for("events"), events, check, first_seed=SEED, between=stage.begin)
    tell(f"{count} events, each with one answer as documented")


@pytest.mark.proves("FR-008", "FR-014")
def test_any_packets_end_a_session_or_mean_nothing(stage: Stage) -> None:
    http = stage.run(_session())

    def check(case: tuple[bool, bool, list[str | bytes]]) -> None:
        polling, connect, packets = case
        stage.run((_post if polling else _send)(http, stage.url, (["40"] if connect else []) + packets))

    cases = st.tuples(st.booleans(), st.booleans(), st.lists(inputs.packets(), max_size=8))
    try:
        count = for_seconds(seconds_for("packets"), cases, check, first_seed=SEED, between=stage.still_works)
    finally:
        stage.run(http.close())
    tell(f"{count} sessions of raw packets, over both transports")


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _send(http: aiohttp.ClientSession, url: str, packets: list[str | bytes]) -> None:
    async with http.ws_connect(f"{url}{_ENGINE}websocket", max_msg_size=0) as ws:
        with contextlib.suppress(ConnectionError):  # hung up on in between
            for packet in packets:
                await (ws.send_bytes(packet) if isinstance(packet, bytes) else ws.send_str(packet))
            await ws.send_str("1")


async def _post(http: aiohttp.ClientSession, url: str, packets: list[str | bytes]) -> None:
    async with http.get(f"{url}{_ENGINE}polling") as response:
        sid = (await response.text())[1:].split('"sid":"', 1)[1].split('"', 1)[0]
    body = _SEPARATOR.join(packet.encode() if isinstance(packet, str) else packet for packet in packets)
    for posted in (body, b"1"):
        async with http.post(f"{url}{_ENGINE}polling&sid={sid}", data=posted) as response:
            assert response.status in (200, 400), response.status


@pytest.mark.proves("FR-008", "FR-039")
def test_any_request_gets_an_answer_below_500(stage: Stage) -> None:
    def check(call: inputs.Call) -> None:
        sent = request(call.method, call.path, *call.headers, body=call.body)
        answer = stage.run(raw_http(stage.url, sent, hang_up=call.broken_off))
        if answer is None:
            return
        assert answer.status < 500, answer
        if answer.status >= 400 and "application/json" in answer.head and call.method != "HEAD":
            assert_no_internals(answer.text)

    calls = st.deferred(lambda: inputs.calls(stage.known))
    count = for_seconds(seconds_for("calls"), calls, check, first_seed=SEED, between=stage.begin)
    tell(f"{count} HTTP requests, none answered with 500 or above")


@pytest.mark.proves("FR-008", "FR-039")
def test_every_answer_over_http_is_documented(stage: Stage) -> None:
    load_all_checks()
    checks = CHECKS.get_by_names([
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance",
    ])  # fmt: skip
    schema = schemathesis.openapi.from_dict(contract.OPENAPI)
    operations = [result.ok() for result in schema.get_all_operations()]
    count = 0
    for operation in operations:

        def check(case: tuple[Any, str | None, str | None]) -> None:
            made, code, token = case
            if code is not None and "code" in made.path_parameters:
                made.path_parameters["code"] = code
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            made.call_and_validate(base_url=stage.url, headers=headers, checks=checks)

        codes = st.sampled_from([stage.known.poll.code, "ZZZZZZ", None])
        tokens = st.sampled_from([stage.known.poll.host_token, "x", None])
        cases = st.tuples(operation.as_strategy(), codes, tokens)
        share = seconds_for("documents") / len(operations)
        count += for_seconds(share, cases, check, first_seed=SEED)
    tell(f"{count} requests for {len(operations)} documented operations, no undocumented answer")


@pytest.mark.proves("FR-008")
@pytest.mark.parametrize("name", decoders.TARGETS)
def test_any_bytes_are_decoded_or_refused(name: str) -> None:
    for sample in decoders.SEEDS[name]:
        decoders.TARGETS[name](sample)
    share = seconds_for("decoders") / len(decoders.TARGETS) / (2 if LONG else 1)
    count = for_seconds(share, decoders.samples_bent(name), decoders.TARGETS[name], first_seed=SEED)
    tell(f"{count} inputs for the decoder {name}, by hypothesis")


@pytest.mark.proves("FR-008")
def test_the_decoders_survive_a_search_guided_by_their_coverage(tmp_path: Path) -> None:
    try:
        import atheris  # noqa: F401
    except ImportError:
        tell("atheris is not there for this Python and machine: hypothesis has had the decoders alone")
        return
    half = str(max(1, int(seconds_for("decoders") / 2)))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.guided", half],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    units = ran.stderr.split("stat::number_of_executed_units:")[1].split()[0]
    tell(f"{units} inputs for all decoders, guided by coverage (atheris)")
