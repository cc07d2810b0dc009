"""One connection that votes: the lean client of ``scripts/loadtest`` without the ledger, for Votemill and the peer."""

import asyncio
import random
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

from uuid_utils import uuid7

from scripts.loadtest import codec
from scripts.loadtest.connection import Connection, ConnectionLost
from scripts.loadtest.schedule import Schedule

OPTIONS = 4
_HANDSHAKE_S = 60.0
_JOIN_ACK = 0
_UPDATE, _RECORDED = b'42["vote-update"', b'42["vote-recorded"'
_ACCEPTED = b'[{"success":true'


class Refused(Exception):
    """The server would not let a voter in."""


@dataclass(frozen=True)
class Seat:
    """Where a voter connects. ``room`` empty: the peer, which has one room and believes any participantId."""

    host: str
    port: int
    room: str
    nickname: str


@dataclass
class Tape:
    """What the voters of one process have seen since it was last reset; latencies in milliseconds."""

    latencies_ms: "array[float]" = field(default_factory=lambda: array("f"))
    acked: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    recorded: int = 0
    frames: int = 0
    lost: int = 0


class BenchVoter:
    """Has at most one vote on the way, and always moves to another option: every vote is a write.

    The payload is the contract's smallest, ``{roomCode, participantId, optionIndex}`` (the peer has no room codes). A
    connection that is lost stays lost and is counted: a benchmark that loses some is not valid.
    """

    def __init__(self, seat: Seat, tape: Tape) -> None:
        self.seat = seat
        self.tape = tape
        self.schedule: Schedule | None = None
        self.queued = False
        self.participant_id = ""
        self.option = -1
        self.acked_option = -1
        self.totals = b""
        self.totals_since = 0.0
        self.busy = False
        self._connection: Connection | None = None
        self._reply: asyncio.Future[bytes] | None = None
        self._packets: tuple[bytes, ...] = ()
        self._due_at = 0.0
        self._number = 1
        self._leaving = False

    async def come_in(self, gate: asyncio.Semaphore) -> None:
        """Connect and take the seat.

        :raises Refused, OSError, ConnectionLost, TimeoutError:
        """
        seat = self.seat
        async with gate, asyncio.timeout(_HANDSHAKE_S):
            connection = Connection(seat.host, seat.port, self.hear, self._on_lost)
            self._connection = connection
            await asyncio.get_running_loop().create_connection(lambda: connection, seat.host, seat.port)
            await connection.ready
            if seat.room:
                self.participant_id = await self._join(seat)
            else:
                self.participant_id = str(uuid7())
        about = {"roomCode": seat.room} if seat.room else {}
        self._packets = tuple(
            codec.encode_json(["submit-vote", about | {"participantId": self.participant_id, "optionIndex": option}])
            for option in range(OPTIONS)
        )

    async def _join(self, seat: Seat) -> str:
        """As often as the server asks to come back later; that time counts."""
        while True:
            reply = await self.ask("join-room", {"roomCode": seat.room, "nickname": seat.nickname})
            answer = codec.ack_body(reply, reply.index(b"["))
            if answer.get("success") is True:
                return str(answer["participantId"])
            if "retryAfter" not in answer:
                raise Refused(str(answer.get("error")))
            await asyncio.sleep(float(answer["retryAfter"]) * (1 + random.random() / 4))

    async def ask(self, event: str, payload: object) -> bytes:
        """Any event; the packet of its ack."""
        if self._connection is None:
            raise ConnectionLost("not connected")
        self._reply = asyncio.get_running_loop().create_future()
        self._connection.write(codec.event_frame(_JOIN_ACK, event, payload))
        return await self._reply

    def leave(self) -> None:
        self._leaving = True
        if self._connection is not None:
            self._connection.abort()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def able(self) -> bool:
        """Connected, nothing unanswered."""
        return not self.busy and self._connection is not None

    def cast(self, due_at: float) -> None:
        """Vote for another option than before; the latency counts from ``due_at`` (monotonic seconds)."""
        if self._connection is None:
            return
        step = 1 + int(random.random() * (OPTIONS - 1)) if self.option >= 0 else int(random.random() * OPTIONS) + 1
        self.option = (self.option + step) % OPTIONS
        self._due_at = due_at
        self._number += 1
        self.busy = True
        self._connection.write(codec.client_frame(b"42%d" % self._number + self._packets[self.option]))

    def hear(self, packet: bytes) -> None:
        """One packet from the server."""
        if packet.startswith(b"43"):
            self._on_ack(packet)
        elif packet.startswith(_UPDATE):
            self._on_totals(packet)
        elif packet.startswith(_RECORDED):
            self.tape.recorded += 1
        elif self._connection is not None and not packet.startswith(b"42"):
            self._connection.other(packet)

    def _on_ack(self, packet: bytes) -> None:
        number, bracket = codec.split_ack(packet)
        if number == _JOIN_ACK:
            if self._reply is not None and not self._reply.done():
                self._reply.set_result(packet)
            return
        tape = self.tape
        if packet.startswith(_ACCEPTED, bracket):
            tape.acked += 1
            tape.latencies_ms.append((monotonic() - self._due_at) * 1000)
            self.acked_option = self.option
        else:
            answer = codec.ack_body(packet, bracket)
            tape.refused[str(answer.get("code") or answer.get("error"))] += 1
        self.busy = False
        if self.schedule is not None:
            self.schedule.freed(self)

    def _on_totals(self, packet: bytes) -> None:
        self.tape.frames += 1
        start = packet.find(b'"votes":[') + 9
        totals = packet[start : packet.find(b"]", start)]
        if totals != self.totals:
            self.totals = totals
            self.totals_since = time.monotonic()

    def _on_lost(self) -> None:
        self._connection = None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionLost("connection lost"))
            self._reply.exception()
        if not self._leaving:
            self.tape.lost += 1
