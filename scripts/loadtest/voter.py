"""One participant: joins, votes, hears what became of it, and comes back after a cut with the vote still in hand."""

import asyncio
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, repeat
from time import monotonic
from typing import Any

from scripts.loadtest import codec
from scripts.loadtest.connection import Connection, ConnectionLost
from scripts.loadtest.ledger import ACKED, RECORDED, REFUSED, REJECTED, RESENT, VoterLedger
from scripts.loadtest.schedule import Schedule
from scripts.loadtest.updates import UpdateWatch

HANDSHAKE_S = 15.0
ACK_PATIENCE_S = 20.0
"""A vote unanswered for so long is sent again over a new connection: the contract promises an answer sooner."""
LONGEST_PAUSE_S = 10.0
"""However long a refusal asks to wait, a load must end."""
_REFUSED_WITHOUT_TIME_S = 0.5
_JOIN_ACK = 0
_MOST_NAMES = 20

_ACK, _UPDATE, _RECORDED, _REJECTED = b"43", b'42["vote-update"', b'42["vote-recorded"', b'42["vote-rejected"'
_ACCEPTED = b'[{"success":true'


@dataclass
class Counts:
    """What happened to the voters of one process beside the ledger; ``problem`` is the latest in words.

    ``failed_returns``: tries to come back after a cut that did not succeed.
    """

    joined: int = 0
    acked: int = 0
    recorded: int = 0
    reconnects: int = 0
    failed_returns: int = 0
    resent: int = 0
    ack_timeouts: int = 0
    double_acks: int = 0
    identity_changes: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    join_refusals: Counter[str] = field(default_factory=Counter)
    problem: str = ""


@dataclass(frozen=True)
class Seat:
    """Where a voter sits: its room, the number of options there, and the node it talks to."""

    index: int
    room: str
    options: int
    host: str
    port: int
    source: str | None = None  # the address it comes from; None: whichever the system chooses


@dataclass(frozen=True)
class Comeback:
    """How a voter comes back after a cut.

    Before each try comes a pause: ``first_s`` seconds, doubled up to ``most_s``, and up to a half shorter or longer.
    After ``tries`` it gives up; None: never.
    """

    first_s: float
    most_s: float
    tries: int | None = None

    def pauses(self) -> Iterator[float]:
        """Before each try."""
        pause_s = self.first_s
        for _ in islice(repeat(None), self.tries):
            yield pause_s * (0.5 + random.random())
            pause_s = min(pause_s * 2, self.most_s)


EAGER = Comeback(0.2, 5.0)
BROWSER = Comeback(1.0, 5.0, 5)
"""As socket.io-client does it in the MVP's page (wire contract)."""


class JoinRefused(Exception):
    """join-room was refused without a time to try again; ``for_good`` when trying again makes no sense."""

    def __init__(self, message: str, *, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good


class Voter:
    """A participant with at most one vote on the way.

    ``run`` makes nicknames and command ids unique among runs. ``latencies_ms`` and ``counts`` are the process's own,
    shared by its voters. ``gate`` bounds the handshakes in flight. ``longest_away_s``: from a cut to the next join.
    """

    def __init__(
        self,
        seat: Seat,
        run: str,
        schedule: Schedule,
        counts: Counts,
        latencies_ms: "array[float]",
        gate: asyncio.Semaphore,
        comeback: Comeback = EAGER,
        nickname: str = "",
    ) -> None:
        self.seat = seat
        self.ledger = VoterLedger(seat.room)
        self.updates = UpdateWatch()
        self.queued = False
        self.joined = False
        self.last_ack_at = 0.0
        self.longest_away_s = 0.0
        self._comeback = comeback
        self._away_since = 0.0  # monotonic seconds, 0 while here
        self._run = run
        self._schedule = schedule
        self._counts = counts
        self._latencies_ms = latencies_ms
        self._gate = gate
        self._connection: Connection | None = None
        self._join_reply: asyncio.Future[dict[str, Any]] | None = None
        self._attempt = 0
        self._nickname = nickname or f"v{seat.index}-{run}"
        self._token = ""
        self._template = b""
        self._option = -1
        self._unanswered = 0  # the number of the vote on the way, 0 without one
        self._intended_at = 0.0
        self._sent_at = 0.0
        self._paused = False
        self._leaving = False

    # Coming and going

    async def come_in(self) -> None:
        """Connect and join, again and again with jittered backoff, until it works or the voter leaves."""
        await self._try_until_in(EAGER.pauses())

    async def _try_until_in(self, pauses: Iterator[float]) -> None:
        while not self._leaving:
            try:
                await self._connect()
                await self._join()
                return
            except (OSError, ConnectionLost, TimeoutError) as error:
                self._counts.problem = str(error) or "no answer to the handshake"
            except JoinRefused as refusal:
                self._counts.problem = str(refusal)
                self._leaving = self._leaving or refusal.for_good
            self._drop()
            self._counts.failed_returns += self._away_since > 0
            pause_s = next(pauses, None)
            if pause_s is None:
                self._leaving = True
            else:
                await asyncio.sleep(pause_s)

    def leave(self) -> None:
        """Close the socket for good."""
        self._leaving = True
        self._drop()

    def check_pulse(self, now: float) -> None:
        """Cut a connection that the node has forgotten: no ping, or no ack, for too long. Called every second or so."""
        if not self.joined or self._connection is None:
            return
        if self._unanswered and now - self._sent_at > ACK_PATIENCE_S:
            self._counts.ack_timeouts += 1
            self._connection.abort()
        elif now - self._connection.heard_at > self._connection.silence_limit_s:
            self._connection.abort()

    def unanswered(self) -> bool:
        """A vote is on the way, or waits for a connection to be sent again."""
        return self._unanswered > 0

    def gone(self) -> bool:
        """Left, gave up, or was refused for good."""
        return self._leaving

    def away_s(self, now: float) -> float:
        """The longest time it was away, that which is not over included; seconds."""
        return max(self.longest_away_s, now - self._away_since if self._away_since else 0.0)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._gate, asyncio.timeout(HANDSHAKE_S):
            connection = Connection(self.seat.host, self.seat.port, self.hear, lambda: self._on_lost(connection))
            self._connection = connection
            source = (self.seat.source, 0) if self.seat.source else None
            await loop.create_connection(lambda: connection, self.seat.host, self.seat.port, local_addr=source)
            await connection.ready

    async def _join(self) -> None:
        payload = {"roomCode": self.seat.room, "nickname": self._nickname}
        if self._token:
            payload["participantToken"] = self._token
        while True:
            async with self._gate, asyncio.timeout(HANDSHAKE_S):
                reply = await self._ask_to_join(payload)
            if reply.get("success") is True:
                self._sit_down(reply)
                return
            error, retry_after_s = str(reply.get("error")), reply.get("retryAfter")
            self._counts.join_refusals[str(reply.get("code") or error)] += 1
            self._counts.problem = error
            if retry_after_s is None:
                raise JoinRefused(error, for_good=not self._token and not self._renamed(error))
            await asyncio.sleep(min(float(retry_after_s), LONGEST_PAUSE_S) * (1 + random.random()))

    def _renamed(self, error: str) -> bool:
        """A lost answer to an earlier join leaves our nickname taken and us without a token; nothing was voted yet."""
        if "taken" not in error or self._attempt >= _MOST_NAMES:
            return False
        self._attempt += 1
        self._nickname = f"v{self.seat.index}-{self._run}.{self._attempt}"
        return True

    async def _ask_to_join(self, payload: dict[str, str]) -> dict[str, Any]:
        if self._connection is None:
            raise ConnectionLost("connection lost before join-room")
        self._join_reply = asyncio.get_running_loop().create_future()
        self._connection.write(codec.event_frame(_JOIN_ACK, "join-room", payload))
        return await self._join_reply

    def _sit_down(self, reply: dict[str, Any]) -> None:
        participant_id = str(reply.get("participantId"))
        if self.ledger.participant_id and participant_id != self.ledger.participant_id:
            self._counts.identity_changes += 1
            raise JoinRefused("a participant came back under another participantId", for_good=True)
        self.ledger.participant_id = participant_id
        self._token = str(reply.get("participantToken") or "")
        head = codec.encode_json(["submit-vote", {"roomCode": self.seat.room, "participantId": participant_id}])
        self._template = (
            head[: -len(b"}]")].replace(b"%", b"%%") + b',"optionIndex":%d,"commandId":"' + self._run.encode()
        )
        self._template += b"-%d-" % self.seat.index + b'%d"}]'
        self.joined = True
        self.longest_away_s, self._away_since = self.away_s(monotonic()), 0.0
        self._counts.joined += 1
        if self._unanswered:
            self._counts.resent += 1
            self.ledger.mark(self._unanswered, RESENT)
            self._send()
        else:
            self._schedule.freed(self)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def _on_lost(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if connection.problem:
            self._counts.problem = connection.problem
        if self._join_reply is not None and not self._join_reply.done():
            self._join_reply.set_exception(ConnectionLost("connection lost during join-room"))
            self._join_reply.exception()
        if self.joined:
            self.joined = False
            self._counts.joined -= 1
            self._away_since = monotonic()
            self.updates.reconnected()
            if not self._leaving:
                self._counts.reconnects += 1
                name = f"voter-{self.seat.index}-comes-back"
                self._return = asyncio.get_running_loop().create_task(self._come_back(), name=name)

    async def _come_back(self) -> None:
        pauses = self._comeback.pauses()
        await asyncio.sleep(next(pauses))
        await self._try_until_in(pauses)

    # Voting

    def able(self) -> bool:
        """Connected, joined, nothing unanswered, not asked to wait."""
        return self.joined and not self._unanswered and not self._paused

    def cast(self, intended_at: float) -> None:
        """Vote for another option than before; latency counts from ``intended_at`` (monotonic seconds)."""
        self._option = self.next_option(self._option)
        self._intended_at = intended_at
        self._unanswered = self.ledger.sent(self._option)
        self._send()

    def next_option(self, present: int) -> int:
        """Another one than ``present``, which is -1 before the first vote; any of them alike."""
        options = self.seat.options
        if present < 0:
            return int(random.random() * options)
        return (present + 1 + int(random.random() * (options - 1))) % options

    def _send(self) -> None:
        self._sent_at = monotonic()
        if self._connection is not None:
            number = self._unanswered
            packet = b"42%d" % number + self._template % (self._option, number)
            self._connection.write(codec.client_frame(packet))

    # Listening

    def hear(self, packet: bytes) -> None:
        """One packet from the node."""
        if packet.startswith(_ACK):
            number, bracket = codec.split_ack(packet)
            if number == _JOIN_ACK:
                if self._join_reply is not None and not self._join_reply.done():
                    self._join_reply.set_result(codec.ack_body(packet, bracket))
            elif number != self._unanswered:
                self._counts.double_acks += 1
            elif packet.startswith(_ACCEPTED, bracket):
                self._on_acked(number)
            else:
                self._on_answer(number, codec.ack_body(packet, bracket))
        elif packet.startswith(_UPDATE):
            self.updates.saw(packet)
        elif packet.startswith(_RECORDED):
            self._on_recorded(packet)
        elif packet.startswith(_REJECTED):
            self._on_rejected(codec.event_body(packet))
        elif self._connection is not None and not packet.startswith(b"42"):
            self._connection.other(packet)

    def _on_acked(self, number: int) -> None:
        now = monotonic()
        self._latencies_ms.append((now - self._intended_at) * 1000)
        self.last_ack_at = now
        self.ledger.mark(number, ACKED)
        self._counts.acked += 1
        self._unanswered = 0
        self._schedule.freed(self)

    def _on_answer(self, number: int, answer: dict[str, Any]) -> None:
        if answer.get("success") is True:
            self._on_acked(number)
            return
        self.ledger.mark(number, REFUSED)
        self._counts.refusals[str(answer.get("code") or answer.get("error"))] += 1
        self._unanswered = 0
        self._paused = True
        wait_s = answer.get("retryAfter")
        wait_s = min(float(wait_s), LONGEST_PAUSE_S) if wait_s is not None else _REFUSED_WITHOUT_TIME_S
        # Never earlier than asked, and not all at once.
        asyncio.get_running_loop().call_later(wait_s * (1 + random.random() / 4), self._resume)

    def _resume(self) -> None:
        self._paused = False
        if self.able():
            self._schedule.freed(self)

    def _on_recorded(self, packet: bytes) -> None:
        self._counts.recorded += 1
        start = packet.find(b'"commandId":"')
        if start > 0:
            text = packet[start + 13 : packet.find(b'"', start + 13)]
            number = text[text.rfind(b"-") + 1 :]
            if number.isdigit():
                self.ledger.mark(int(number), RECORDED)

    def _on_rejected(self, body: dict[str, Any]) -> None:
        self._counts.rejections[str(body.get("code") or body.get("error"))] += 1
        number = str(body.get("commandId") or "").rpartition("-")[2]
        if number.isdigit():
            self.ledger.mark(int(number), REJECTED)
        else:
            self.ledger.mark(self.ledger.newest_with(int(body.get("optionIndex", -1))), REJECTED)
