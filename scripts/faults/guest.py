"""One browser that is asked questions from ordinary code, and tells how long each answer took."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

from models.wire import names
from scripts.loadtest import codec
from scripts.loadtest.connection import Connection, ConnectionLost
from scripts.loadtest.rest import Base
from scripts.loadtest.updates import UpdateWatch

ANSWER_WITHIN_S = 15.0


@dataclass(frozen=True)
class Answer:
    """One ack. ``took_s`` from the sending."""

    body: dict[str, Any]
    took_s: float

    @property
    def success(self) -> bool:
        return self.body.get("success") is True

    @property
    def comes_back_later(self) -> bool:
        """Refused, with a time to try again."""
        return self.body.get("success") is False and float(self.body.get("retryAfter") or 0) > 0


class Guest:
    """A socket on a loop of its own thread. Not safe to share between threads.

    ``finals``: the totals that were called final, by their version. ``decided``: by the command id of a vote, the event
    that told what became of it (``vote-recorded``, ``vote-rejected``).

    :raises ConnectionLost, OSError, TimeoutError: when made, and by every question whose answer never came
    """

    def __init__(self, base: Base) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guest", daemon=True)
        self._thread.start()
        self._base = base
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self.lost = False
        self.heard: list[str] = []
        self.results = UpdateWatch()
        self.finals: dict[int, tuple[int, ...]] = {}
        self.decided: dict[str, str] = {}
        self.participant_id = ""
        self.token = ""
        try:
            self._connection = self._do(self._connect())
        except BaseException:
            self._end_loop()
            raise

    def close(self) -> None:
        """Leave without a word."""
        self._do(self._leave())
        self._end_loop()

    def join(self, room: str, nickname: str, token: str = "") -> Answer:
        """join-room; remembers id and token."""
        payload = {"roomCode": room, "nickname": nickname}
        answer = self.ask("join-room", payload | ({"participantToken": token} if token else {}))
        if answer.success:
            self.participant_id, self.token = answer.body["participantId"], answer.body["participantToken"]
        return answer

    def vote(self, room: str, option: int, command_id: str = "") -> Answer:
        """submit-vote as the participant that joined."""
        payload = {"roomCode": room, "participantId": self.participant_id, "optionIndex": option}
        return self.ask("submit-vote", payload | ({"commandId": command_id} if command_id else {}))

    def ask(self, event: str, payload: object) -> Answer:
        """Any event with an ack."""
        started = time.monotonic()
        body = self._do(self._ask(event, payload))
        return Answer(body, time.monotonic() - started)

    def hears(self, event: str, within_s: float) -> bool:
        """Whether an event has come, or comes within ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        while event not in self.heard:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_WITHIN_S + 5)

    async def _connect(self) -> Connection:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            connection = Connection(self._base.host, self._base.port, self._hear, self._lost)
            await self._loop.create_connection(lambda: connection, self._base.host, self._base.port)
            await connection.ready
        return connection

    async def _leave(self) -> None:
        self._connection.abort()
        await asyncio.sleep(0.01)  # The transport closes its socket in the loop's next rounds.

    async def _ask(self, event: str, payload: object) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = self._loop.create_future()
        self._connection.write(codec.event_frame(self._number, event, payload))
        return await asyncio.wait_for(answer, ANSWER_WITHIN_S)

    def _hear(self, packet: bytes) -> None:
        if packet.startswith(b"43"):
            number, bracket = codec.split_ack(packet)
            answer = self._answers.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_result(codec.ack_body(packet, bracket))
        elif packet.startswith(b'42["'):
            event = packet[4 : packet.find(b'"', 4)].decode()
            self.heard.append(event)
            if event == names.VOTE_UPDATE:
                self.results.saw(packet)
                self._note_final(codec.event_body(packet))
            elif event in (names.VOTE_RECORDED, names.VOTE_REJECTED):
                self.decided[str(codec.event_body(packet).get("commandId"))] = event
        else:
            self._connection.other(packet)

    def _note_final(self, update: dict[str, Any]) -> None:
        if update.get("final") and not update.get("hidden"):
            self.finals[int(update["version"])] = tuple(update["votes"])

    def _lost(self) -> None:
        self.lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionLost("the node cut the connection"))
        self._answers.clear()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
