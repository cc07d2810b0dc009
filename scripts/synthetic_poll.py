"""Lives a poll of its own through a service, as browsers do: create, join, vote, change one's mind, see the totals.

Every ack must come and every voter's screen must show the right totals, the final ones after the close. Exit status:
0 all is well, 1 the service can't be reached or doesn't answer, 2 wrong usage, 3 votes are wrong or missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import aiohttp
import socketio

OPTIONS = ("Yes", "No", "Perhaps")
_VOTERS = 6
_WITHIN_S = 60.0
_ANSWER_S = 10.0
_SHOWN_S = 30.0
_AGAIN_AFTER_S = 3.0


class NotReached(Exception):
    """No answer, or a refusal; ``told`` is what the service says of it."""

    def __init__(self, message: str, told: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.told = told or {}


class VotesWrong(Exception):
    """What the service says of our votes isn't what we have done."""


async def lives(url: str, voters: int = _VOTERS, within_s: float = _WITHIN_S) -> Counter[int]:
    """One poll from its creation to its final totals; the votes by option.

    A service that can't be reached is tried again while there is time, as when a balancer has yet to note new nodes.

    :raises NotReached:
    :raises VotesWrong: never tried again
    """
    loop = asyncio.get_running_loop()
    gives_up_at = loop.time() + within_s
    while True:
        try:
            async with asyncio.timeout_at(gives_up_at):
                return await _poll(url.rstrip("/"), voters)
        except (aiohttp.ClientError, socketio.exceptions.SocketIOError, TimeoutError, NotReached) as error:
            if loop.time() + _AGAIN_AFTER_S > gives_up_at:
                raise NotReached(f"{url}: {str(error) or type(error).__name__}") from error
            await asyncio.sleep(_AGAIN_AFTER_S)


async def _poll(url: str, voters: int) -> Counter[int]:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(url, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        question = {"question": "Does everything work?", "options": OPTIONS}
        poll = await call(session, "POST", "/api/polls", question)
        code, host = poll["roomCode"], {"Authorization": f"Bearer {poll['hostToken']}"}
        change = partial(call, session, "POST", f"/api/polls/{code}/state", headers=host)
        await change(body={"newState": "open"})
        try:
            async with _joined([Voter(url, code, number) for number in range(voters)]) as crowd:
                wanted = Counter(await asyncio.gather(*(voter.votes() for voter in crowd)))
                await _see(crowd, lambda seen: seen["votes"] == _in_order(wanted), f"totals {_in_order(wanted)}")
                await change(body={"newState": "closed"})
                await _see(crowd, lambda seen: bool(seen["final"]), "final totals")
        except BaseException:
            with suppress(aiohttp.ClientError, TimeoutError, NotReached):  # it may be what doesn't answer
                await change(body={"newState": "closed"})
            raise
        told = await call(session, "GET", f"/api/polls/{code}")
        finals = [voter.seen["votes"] for voter in crowd] + [told["votes"]]
        if any(votes != _in_order(wanted) for votes in finals):
            raise VotesWrong(f"voted {_in_order(wanted)}, final totals {finals}")
        return wanted


class Voter:
    """One participant. ``seen``: the last vote-update; ``recorded``: commandIds of votes that are stored.

    ``token`` makes it the same participant as before, whose ``previous`` choice is known once he has joined.
    ``options`` are the client's own.
    """

    def __init__(self, url: str, code: str, number: int, token: str = "", **options: Any) -> None:
        self._url = url
        self._code = code
        self._number = number
        self._socket = socketio.AsyncClient(reconnection=False, **options)
        self._socket.on("vote-update", self._shown)
        self._socket.on("vote-recorded", self._stored)
        self.token = token
        self.previous = 0
        self.seen: dict[str, Any] = {}
        self.recorded: set[str] = set()
        self.news = asyncio.Event()

    def _shown(self, update: dict[str, Any]) -> None:
        self.seen = update
        self.news.set()

    def _stored(self, receipt: dict[str, Any]) -> None:
        self.recorded.add(receipt.get("commandId", ""))
        self.news.set()

    async def connects(self) -> None:
        await self._socket.connect(self._url, transports=["websocket"], wait_timeout=_ANSWER_S)

    async def joins(self) -> None:
        payload = {"roomCode": self._code, "nickname": f"Voter {self._number}"}
        joined = await self._ask("join-room", payload | ({"participantToken": self.token} if self.token else {}))
        self._id, self.token = joined["participantId"], joined["participantToken"]
        self.previous = joined["previousVote"] or 0

    async def votes(self) -> int:
        """Vote twice; the choice that counts."""
        for option in (self._number, self._number + 1):
            await self.chooses(option % len(OPTIONS))
        return (self._number + 1) % len(OPTIONS)

    async def chooses(self, option: int, command_id: str = "") -> None:
        """Vote; returns when the vote is acked."""
        payload = {"roomCode": self._code, "participantId": self._id, "optionIndex": option}
        await self._ask("submit-vote", payload | ({"commandId": command_id} if command_id else {}))

    async def hears(self, wanted: Callable[[], bool]) -> None:
        """Wait for it, which events bring; the caller has a deadline."""
        while not wanted():
            self.news.clear()
            await self.news.wait()

    async def leaves(self) -> None:
        await self._socket.disconnect()

    async def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        ack: dict[str, Any] = await self._socket.call(event, payload, timeout=_ANSWER_S)
        if not ack.get("success"):
            raise NotReached(f"{event}: {ack.get('error')}", ack)
        return ack


@asynccontextmanager
async def _joined(crowd: list[Voter]) -> AsyncIterator[list[Voter]]:
    """Voters who have joined, and leave at the end."""
    try:
        for voter in crowd:
            await voter.connects()
            await voter.joins()
        yield crowd
    finally:
        await asyncio.gather(*(voter.leaves() for voter in crowd), return_exceptions=True)


async def _see(crowd: list[Voter], wanted: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Wait until every screen shows it."""
    for voter in crowd:
        try:
            async with asyncio.timeout(_SHOWN_S):
                await voter.hears(partial(_shows, voter, wanted))
        except TimeoutError:
            raise VotesWrong(f"{what} never showed; the last were {voter.seen.get('votes')}") from None


def _shows(voter: Voter, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    return bool(voter.seen) and wanted(voter.seen)


def _in_order(votes: Counter[int]) -> list[int]:
    return [votes[option] for option in range(len(OPTIONS))]


async def call(
    session: aiohttp.ClientSession, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """The answer to a REST call.

    :raises NotReached: a refusal
    """
    async with session.request(method, path, json=body, headers=headers) as answer:
        try:
            told = await answer.json(content_type=None)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise NotReached(f"{method} {path}: {answer.status}, and no JSON object")
        if answer.status >= 400:
            raise NotReached(f"{method} {path}: {answer.status} {told.get('error')}", told)
        return told


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/synthetic-poll", description=__doc__)
    parser.add_argument("url", help="where browsers reach the service")
    parser.add_argument("--voters", type=int, default=_VOTERS)
    parser.add_argument("--within-s", type=float, default=_WITHIN_S, help="time for everything (default %(default)s)")
    options = parser.parse_args()
    try:
        counted = asyncio.run(lives(options.url, options.voters, options.within_s))
    except (NotReached, VotesWrong) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1 if isinstance(error, NotReached) else 3
    print(f"✓ {counted.total()} voters' last choices were counted and shown: {_in_order(counted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
