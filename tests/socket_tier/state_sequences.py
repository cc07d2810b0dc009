"""Random sequences of state changes of one poll, from several callers at two nodes, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from scripts.stack.supervision import wait_until
from tests.socket_tier.browsers import Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

STATES = ("open", "open", "open", "closed", "closed", "closed", "waiting")
_SETTLED_WITHIN_S = 60.0

# The one table that knows which command was asked for when, and by whose call.
_LOGGED = """
SELECT correlation_id, details->>'asked', (details->>'asked_at_us')::bigint FROM audit_log a
WHERE room_code = %s AND event = 'poll_state_changed' AND actor <> 'timer' AND EXISTS (
  SELECT FROM state_changes c JOIN polls p ON p.id = c.poll_id
  WHERE p.room_code = a.room_code AND c.at_us = (details->>'asked_at_us')::bigint AND c.new_state = details->>'asked')
"""


@dataclass
class Asked:
    """One command. ``by`` is who has sent it; what one socket sends arrives in order. Times are monotonic seconds."""

    state: str
    by: str
    sent_at: float
    trace: str = field(default_factory=lambda: secrets.token_hex(16))
    acked_at: float = 0.0
    ack: dict[str, Any] = field(default_factory=dict)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{secrets.token_hex(8)}-01"

    @property
    def acked(self) -> bool:
        return self.ack.get("success") is True

    def decided_before(self, other: Asked) -> bool:
        return self.acked and "pending" not in self.ack and self.acked_at < other.sent_at

    def surely_before(self, other: Asked) -> bool:
        in_line = self.by == other.by and self.by.startswith("socket") and self.sent_at < other.sent_at
        return in_line or 0 < self.acked_at < other.sent_at


class Sequence:
    """Made from ``seed`` alone; what the machine makes of it differs each time."""

    def __init__(self, seed: int, rest: Rest, node_urls: list[str], database_url: str) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self._rest = rest
        self._node_urls = node_urls
        self._database_url = database_url
        self.asked: list[Asked] = []
        self.close_after_s = self._random.choice((None, None, 2, 4))
        self._hosts: list[Browser] = []
        self._joined: list[dict[str, Any]] = []

    async def begin(self, new_browser: NewBrowser) -> None:
        """A poll, and at each node a page that hosts it and votes in it."""
        rules = {} if self.close_after_s is None else {"closeAfterS": self.close_after_s}
        self._poll: Poll = await self._rest.create(rules=rules or None)
        for number, url in enumerate(self._node_urls):
            host = await new_browser(url).connect()
            await host.call("join", {"roomCode": self._poll.code, "hostToken": self._poll.host_token})
            self._joined.append(await host.join(self._poll.code, f"host {number}"))
            self._hosts.append(host)

    async def run(self) -> None:
        """Ask for changes, one behind the other, at once or with pauses, some while the poll's row is locked."""
        steps = self._random.randint(4, 9)
        locked_at = self._random.choice((None, self._random.randrange(steps)))
        running: list[asyncio.Task[None]] = []
        lock: asyncio.Future[None] | None = None
        for step in range(steps):
            if step == locked_at:
                held_s = self._random.uniform(0.2, 3)
                lock = asyncio.get_running_loop().run_in_executor(None, self._lock_row, held_s)
            running.append(asyncio.create_task(self._ask(), name="ask"))
            await self._pause(running)
        await asyncio.gather(*running)
        if lock is not None:
            await lock

    async def _pause(self, running: list[asyncio.Task[None]]) -> None:
        match self._random.choice(("at once", "at once", "moment", "while", "answer", "all answers")):
            case "at once":
                await asyncio.sleep(0)
            case "moment":
                await asyncio.sleep(0.005)
            case "while":
                await asyncio.sleep(self._random.uniform(0.05, 0.5))
            case "answer":
                await running[-1]
            case _:
                await asyncio.gather(*running)

    async def _ask(self) -> None:
        number = self._random.randrange(len(self._node_urls))
        kind = self._random.choice(("socket", "rest"))
        command = Asked(self._random.choice(STATES), f"{kind} {number}", time.monotonic())
        self.asked.append(command)
        if kind == "socket":
            host = self._hosts[number]
            command.ack = await host.change(self._poll.code, command.state, traceparent=command.traceparent)
        else:
            headers = {"Authorization": f"Bearer {self._poll.host_token}", "traceparent": command.traceparent}
            answer = await self._rest.request(
                "POST",
                f"/api/polls/{self._poll.code}/state",
                url=self._node_urls[number],
                json={"newState": command.state},
                headers=headers,
            )
            command.ack = answer.body
        command.acked_at = time.monotonic()

    def _lock_row(self, held_s: float) -> None:
        with contextlib.closing(psycopg2.connect(self._database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT FROM polls WHERE room_code = %s FOR UPDATE", (self._poll.code,))
            time.sleep(held_s)

    def _logged(self) -> dict[str, tuple[str, int]]:
        """State and time of each command in the log, by its trace."""
        with contextlib.closing(psycopg2.connect(self._database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(_LOGGED, (self._poll.code,))
            rows = cursor.fetchall()
            assert len({trace for trace, _, _ in rows}) == len(rows), "a command stands twice in the log"
            return {trace: (state, at_us) for trace, state, at_us in rows}

    async def settle(self) -> float:
        """See what must hold; the seconds from the last decision until every node and page showed it, 0 where the
        poll's own time was waited for.

        :raises AssertionError: it doesn't
        """
        for command in self.asked:
            assert command.acked or command.ack.get("retryAfter"), command
        acked = {command.trace for command in self.asked if command.acked}
        await asyncio.to_thread(
            wait_until, lambda: acked <= self._logged().keys(), _SETTLED_WITHIN_S, "an acked change is not in the log"
        )
        decided_at = time.monotonic()
        logged = self._logged()
        self._see_order(logged)
        self._see_answers()
        last = max(logged.values(), key=lambda entry: entry[1])[0] if logged else "waiting"
        timed = self.close_after_s is not None and last == "open"
        expected = "closed" if timed else last
        await eventually(lambda: self._shown(expected), f"{expected} everywhere", _SETTLED_WITHIN_S)
        took_s = time.monotonic() - decided_at
        for host, joined in zip(self._hosts, self._joined, strict=True):
            vote = await host.vote(self._poll.code, joined, 0)
            assert vote["success"] == (expected == "open"), (vote, expected)
        return 0.0 if timed else took_s

    async def end(self) -> None:
        for host in self._hosts:
            await host.close()

    def _see_order(self, logged: dict[str, tuple[str, int]]) -> None:
        known = [command for command in self.asked if command.trace in logged]
        for command in known:
            assert logged[command.trace][0] == command.state
            for other in known:
                if command.surely_before(other):
                    assert logged[command.trace][1] < logged[other.trace][1], (command, other)

    def _see_answers(self) -> None:
        """Who was alone is told the state that was asked for."""
        for command in self.asked:
            others = [other for other in self.asked if other is not command]
            alone = all(other.decided_before(command) or command.acked_at < other.sent_at for other in others)
            if alone and command.acked and "pending" not in command.ack and self.close_after_s is None:
                assert command.ack["state"] == command.state, command

    async def _shown(self, state: str) -> bool:
        pages = [host.heard("poll-state-changed")[-1]["newState"] for host in self._hosts]
        nodes = [(await self._rest.read(self._poll, url=url))["state"] for url in self._node_urls]
        return {*pages, *nodes} == {state}

    def __str__(self) -> str:
        told = [
            f"{one.by}: {one.state} -> {one.ack.get('state')}{' pending' * ('pending' in one.ack)}"
            for one in self.asked
        ]
        return f"seed {self.seed} (closeAfterS {self.close_after_s}): " + "; ".join(told)
