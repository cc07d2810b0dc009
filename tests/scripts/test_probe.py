"""The synthetic voter: rounds that work and rounds that don't, what is left behind, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from models.runtime.settings import ProbeSettings, load
from scripts.probing.__main__ import problems
from scripts.probing.metrics import COUNTERS, TIMINGS
from scripts.probing.record import read
from scripts.probing.rounds import FAILED, LIMITED, OK, STEPS, Round, Voting
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
from tests.replica.superuser import ask

WITHIN_S = 60
_POLLS = "SELECT count(*) FROM polls WHERE question = 'Synthetic poll of ' || %s || ': does everything work?'"
_PEOPLE = f"SELECT count(*) FROM participants WHERE poll_id IN ({_POLLS.replace('count(*)', 'id')})"


@contextmanager
def probing(folder: Path, url: str, name: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A probe that votes twice a second, with settings named without VOTEMILL_PROBE__; dead at the end."""
    own = {"EVERY_S": "0.5", "FOLDER": str(folder), "NAME": name} | settings
    env = os.environ | {f"VOTEMILL_PROBE__{key}": value for key, value in own.items() if "__" not in key}
    env |= {key: value for key, value in own.items() if "__" in key}
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.probing", "--url", url],
        env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def recorded(folder: Path, name: str) -> list[dict[str, Any]]:
    try:
        return list(read(folder / f"{name}.jsonl"))
    except FileNotFoundError:
        return []


def ended(process: subprocess.Popen[str]) -> str:
    """What it has said, after an orderly end."""
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, said
    return said


@pytest.mark.proves("SC-001", "FR-018")
def test_two_probes_vote_beside_each_other_and_clean_up(
    base_url: str, run_dir: Path, database_url: str, tmp_path: Path
) -> None:
    names = [f"probe-{uuid4().hex[:8]}" for _ in range(2)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.setblocking(False)
        told: set[str] = set()
        port = str(statsd.getsockname()[1])

        def all_told() -> bool:
            try:
                while packet := statsd.recv(65_536).decode():
                    told.update(re.findall(r"^\w+\.probe\.([\w.]+):", packet, re.MULTILINE))
            except BlockingIOError:
                pass
            return told >= COUNTERS.keys() - {"metrics.not_sent"} | TIMINGS.keys()

        # When two vote, one of them in a new poll every second
        with (
            probing(tmp_path, base_url, names[0], VOTEMILL_METRICS__STATSD_PORT=port) as first,
            probing(tmp_path, base_url, names[1], POLL_S="1") as second,
        ):
            wait_until(lambda: all(len(recorded(tmp_path, name)) >= 4 for name in names), WITHIN_S, "no rounds")
            # Then each metric that is listed is sent
            wait_until(all_told, WITHIN_S, "metrics are missing")
            said = [ended(process) for process in (first, second)]
    # And every round was good, with the time of each step
    for name in names:
        rounds = recorded(tmp_path, name)
        assert {found["outcome"] for found in rounds} == {OK}, rounds
        assert rounds[0]["ms"].keys() == STEPS.keys() and rounds[1]["ms"].keys() >= STEPS.keys() - {"create"}
    assert all("probe_ended" in text and "Traceback" not in text for text in said), said
    # And there is one voter in each poll, of which none is open
    polls = [ask(run_dir, database_url, _POLLS, name) for name in names]
    assert polls[0] == 1 and polls[1] > 1
    assert [ask(run_dir, database_url, _PEOPLE, name) for name in names] == polls
    for name in names:
        assert ask(run_dir, database_url, f"{_POLLS} AND state <> 'closed'", name) == 0


async def test_a_service_that_is_away_fails_at_the_first_step() -> None:
    voting = Voting(settings(), "http://127.0.0.1:9")
    found = await voting.round()
    assert (found.outcome, found.step) == (FAILED, "create") and "Cannot connect" in found.error


def settings(**more: Any) -> ProbeSettings:
    """Of a probe that is impatient and keeps no record."""
    return msgspec.structs.replace(load().probe, deadline_s=0.5, **more)


BUSY = {"success": False, "error": "The service is busy", "code": "overloaded", "retryAfter": 2}
TOO_MANY = BUSY | {"code": "rate_limited"}
GONE = {"success": False, "error": "Only host can change poll state", "code": "not_host"}


@pytest.mark.parametrize(
    ("status", "body", "outcome", "error", "wait_s"),
    [
        (503, json.dumps(BUSY), FAILED, "503 The service is busy", 2),
        (429, json.dumps(TOO_MANY), LIMITED, "429 The service is busy", 2),
        (403, json.dumps(GONE), FAILED, "403 Only host can change poll state", 0),
        (502, "<html>", FAILED, "502, and no JSON object", 0),
        (200, None, FAILED, "TimeoutError", 0),
    ],
)
async def test_what_a_round_makes_of_answers(
    status: int, body: str | None, outcome: str, error: str, wait_s: float
) -> None:
    never = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        if body is None:
            await never.wait()
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        found: Round = await Voting(settings(), f"http://{host}:{port}").round()
    finally:
        never.set()
        await runner.cleanup()
    assert (found.outcome, found.step, found.wait_s) == (outcome, "create", wait_s)
    assert error in found.error


@pytest.mark.proves("FR-028")
def test_a_probe_that_the_limits_would_refuse_is_not_begun() -> None:
    usual = load()
    usual = msgspec.structs.replace(usual, limits=msgspec.structs.replace(usual.limits, unlimited=False))
    assert list(problems(usual, "https://polls.example")) == []
    hasty = msgspec.structs.replace(usual, probe=settings(every_s=1, poll_s=5))
    assert [problem.partition(":")[0] for problem in problems(hasty, "")] == [
        "probe.url", "probe.every_s", "probe.poll_s",
    ]  # fmt: skip
