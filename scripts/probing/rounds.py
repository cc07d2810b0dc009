"""One round of a synthetic voter: join, vote, change the vote, and see it acked, counted and shown, as a browser does.

The poll is kept for many rounds: the voter comes back with his token, as a browser after a reload, so a round adds
nothing to the database but one changed vote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import socketio

from models.runtime.settings import ProbeSettings
from scripts.synthetic_poll import OPTIONS, NotReached, Voter, call

STEPS = {
    "create": "a poll is created and opened; only where there is none, or the last one is old",
    "connect": "a WebSocket is opened",
    "join": "the voter joins, or comes back with his token",
    "vote": "a vote is acked",
    "change": "a change of that vote is acked",
    "counted": "vote-recorded tells that the change is stored",
    "shown": "the room's totals show it",
}
OK, FAILED, LIMITED = "ok", "failed", "limited"
_CLOSE_S = 5.0
_LONGEST_WAIT_S = 300.0
# KeyError: an answer that lacks what it must have.
_TROUBLE = (aiohttp.ClientError, socketio.exceptions.SocketIOError, OSError, TimeoutError, NotReached, KeyError)


@dataclass
class Round:
    """What a round has found. ``at``: its begin, seconds since the epoch. ``ms``: of each step that succeeded.

    ``step`` is the one that failed, ``error`` why. ``wait_s``: what the service asks to wait before the next.
    """

    at: float
    outcome: str = OK
    step: str = ""
    error: str = ""
    ms: dict[str, float] = field(default_factory=dict)
    took_ms: float = 0.0
    wait_s: float = 0.0


@dataclass
class _Poll:
    """The poll that is kept, with what the voter's browser would keep of it."""

    code: str
    host_token: str
    made_at: float
    jar: aiohttp.CookieJar
    voter_token: str = ""


class Voting:
    """Rounds in one poll after another. Every wait ends after ``deadline_s``."""

    def __init__(self, settings: ProbeSettings, url: str) -> None:
        self._settings = settings
        self._url = url.rstrip("/")
        self._poll: _Poll | None = None
        self._step = ""

    async def round(self) -> Round:
        """Never raises because of the service."""
        found, began = Round(time.time()), time.perf_counter()
        try:
            await self._round(found.ms)
        except _TROUBLE as error:
            told = error.told if isinstance(error, NotReached) else {}
            found.outcome = LIMITED if told.get("code") == "rate_limited" else FAILED
            found.step, found.error = self._step, str(error)[:200] or type(error).__name__
            asked_s = told.get("retryAfter")
            found.wait_s = min(asked_s, _LONGEST_WAIT_S) if isinstance(asked_s, int | float) else 0
            if told and not found.wait_s:
                self._poll = None  # such a refusal would come again: the next round makes another poll
        found.took_ms = _ms_since(began)
        return found

    async def close(self) -> None:
        """Leave no open poll behind, as far as the service lets us."""
        if self._poll is not None:
            await self._end(self._poll)
            self._poll = None

    async def _round(self, ms: dict[str, float]) -> None:
        if self._poll is None or time.monotonic() - self._poll.made_at > self._settings.poll_s:
            old = self._poll
            async with self._timed("create", ms):
                self._poll = await self._new_poll()
            if old is not None:
                await self._end(old)
        poll = self._poll
        async with aiohttp.ClientSession(cookie_jar=poll.jar) as session:
            voter = Voter(self._url, poll.code, 0, poll.voter_token, http_session=session, handle_sigint=False)
            try:
                await self._vote(voter, poll, ms)
            finally:
                with suppress(*_TROUBLE):  # whatever ended the round is what counts
                    async with asyncio.timeout(_CLOSE_S):
                        await voter.leaves()

    async def _vote(self, voter: Voter, poll: _Poll, ms: dict[str, float]) -> None:
        async with self._timed("connect", ms):
            await voter.connects()
        async with self._timed("join", ms):
            await voter.joins()
        poll.voter_token = voter.token
        first, second = ((voter.previous + further) % len(OPTIONS) for further in (1, 2))
        async with self._timed("vote", ms):
            await voter.chooses(first)
        change = uuid4().hex
        async with self._timed("change", ms):
            await voter.chooses(second, change)
        async with self._timed("counted", ms):
            await voter.hears(lambda: change in voter.recorded)
        wanted = [int(option == second) for option in range(len(OPTIONS))]
        async with self._timed("shown", ms):
            await voter.hears(lambda: voter.seen.get("votes") == wanted)

    async def _new_poll(self) -> _Poll:
        async with self._session() as session:
            question = f"Synthetic poll of {self._settings.name}: does everything work?"
            made = await call(session, "POST", "/api/polls", {"question": question, "options": OPTIONS})
            # For servers named by an address, too.
            poll = _Poll(made["roomCode"], made["hostToken"], time.monotonic(), aiohttp.CookieJar(unsafe=True))
            await self._change(session, poll, "open")
            return poll

    async def _end(self, poll: _Poll) -> None:
        """What stays open is no harm: retention takes it, as it takes the closed ones."""
        with suppress(*_TROUBLE):
            async with asyncio.timeout(_CLOSE_S), self._session() as session:
                await self._change(session, poll, "closed")

    async def _change(self, session: aiohttp.ClientSession, poll: _Poll, state: str) -> None:
        host = {"Authorization": f"Bearer {poll.host_token}"}
        await call(session, "POST", f"/api/polls/{poll.code}/state", {"newState": state}, host)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self._url, cookie_jar=aiohttp.DummyCookieJar())

    @asynccontextmanager
    async def _timed(self, step: str, ms: dict[str, float]) -> AsyncIterator[None]:
        self._step, began = step, time.perf_counter()
        async with asyncio.timeout(self._settings.deadline_s):
            yield
        ms[step] = _ms_since(began)


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def as_line(probe: str, every_s: float, found: Round) -> dict[str, Any]:
    """A round as the record keeps it; ``every_s`` tells where rounds are missing."""
    line: dict[str, Any] = {
        "at": round(found.at, 3), "probe": probe, "every_s": every_s, "outcome": found.outcome,
        "took_ms": found.took_ms, "ms": found.ms,
    }  # fmt: skip
    return line | ({"step": found.step, "error": found.error} if found.outcome != OK else {})
