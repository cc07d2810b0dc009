"""Holds the tick: however many workers publish, a room gets one vote-update per tick and never an older version."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from models.wire import names
from socket_tier.metrics import NodeMetrics

_TURN_S = 0.005
_AHEAD_S = 0.2  # of sending time may be used up in advance: a few rooms that change together needn't wait


class _Channel:
    """Vote-updates to one room."""

    __slots__ = ("in_line", "pending", "sent_at", "sent_version", "timer")

    def __init__(self) -> None:
        self.sent_version = 0
        self.sent_at = float("-inf")
        self.pending: dict[str, Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.in_line = False


class Ticker:
    """Sends the newest of what is offered, at most once per tick and room: at once, then at the end of the tick.

    A tick is ``tick_s`` seconds, in a large room ``member_s`` for each of its ``members(room_code)`` on this node. All
    rooms together get ``frames_per_s``: when more of them change, they take turns, and only final totals go ahead.
    Votes come before intermediate results. ``deliver(room_code, payload)`` writes to the members.
    """

    def __init__(
        self,
        members: Callable[[str], int],
        deliver: Callable[[str, dict[str, Any]], Coroutine[Any, Any, None]],
        metrics: NodeMetrics,
        *,
        tick_s: float,
        member_s: float,
        frames_per_s: float,
    ) -> None:
        self._members = members
        self._deliver = deliver
        self._metrics = metrics
        self._tick_s = tick_s
        self._member_s = member_s
        self._frames_per_s = frames_per_s
        self._channels: dict[str, _Channel] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._line: deque[str] = deque()  # rooms whose tick is over and whose turn has not come
        self._turn: asyncio.TimerHandle | None = None
        self._used_until = 0.0  # the sending time that is used up; the loop's clock

    def change(self, tick_s: float, member_s: float, frames_per_s: float) -> None:
        """Other figures, from each room's next tick on."""
        self._tick_s = tick_s
        self._member_s = member_s
        self._frames_per_s = frames_per_s

    def tick_of(self, room_code: str) -> float:
        """A room's own tick, in seconds."""
        return max(self._tick_s, self._members(room_code) * self._member_s)

    def offer(self, room_code: str, version: int, payload: dict[str, Any]) -> None:
        """Have a payload sent unless a newer version was already offered. A repeat of the newest one is sent again."""
        channel = self._channels.get(room_code)
        if channel is None:
            channel = self._channels[room_code] = _Channel()
        newest = max(channel.sent_version, channel.pending["version"] if channel.pending else 0)
        if version < newest:
            self._metrics.count("fanout.superseded")
            return
        if channel.pending is not None:
            self._metrics.count("fanout.superseded")
            _keep_oldest_vote(channel.pending, payload)
        channel.pending = payload
        if channel.timer is None and (not channel.in_line or payload["final"]):
            self._await_tick(room_code, channel)

    def forget(self, room_code: str) -> None:
        """Nobody here is in the room any more."""
        channel = self._channels.pop(room_code, None)
        if channel is not None and channel.timer is not None:
            channel.timer.cancel()

    def _await_tick(self, room_code: str, channel: _Channel) -> None:
        loop = asyncio.get_running_loop()
        wait_s = channel.sent_at + self.tick_of(room_code) - loop.time()
        if wait_s <= 0:
            self._tick_over(room_code, channel)
        else:
            channel.timer = loop.call_later(wait_s, self._tick_over, room_code, channel)

    def _tick_over(self, room_code: str, channel: _Channel) -> None:
        channel.timer = None
        if channel.pending is None:
            return
        if channel.pending["final"] or (not self._line and self._wait_s() <= 0):
            self._send(room_code, channel)
        elif not channel.in_line:
            channel.in_line = True
            self._line.append(room_code)
            self._await_turn()

    def _wait_s(self) -> float:
        """How long until somebody may send."""
        return self._used_until - _AHEAD_S - asyncio.get_running_loop().time()

    def _await_turn(self) -> None:
        if self._turn is None:
            wait_s = max(_TURN_S, self._wait_s())  # a timer that is a fraction of a millisecond early would spin
            self._turn = asyncio.get_running_loop().call_later(wait_s, self._take_turns)

    def _take_turns(self) -> None:
        self._turn = None
        while self._line and self._wait_s() <= 0:
            room_code = self._line.popleft()
            channel = self._channels.get(room_code)
            if channel is None:
                continue
            channel.in_line = False
            if channel.sent_at + self.tick_of(room_code) > asyncio.get_running_loop().time():
                self._await_tick(room_code, channel)  # its final totals went ahead meanwhile
            else:
                self._send(room_code, channel)
        if self._line:
            self._await_turn()

    def _send(self, room_code: str, channel: _Channel) -> None:
        payload, channel.pending = channel.pending, None
        if payload is None:
            return
        now = asyncio.get_running_loop().time()
        # A very large room is held back by its own tick already: it must not hold back all others as well.
        used_s = min(self._members(room_code) / self._frames_per_s, _AHEAD_S)
        self._used_until = max(self._used_until, now) + used_s
        channel.sent_at = now
        channel.sent_version = payload["version"]
        self._metrics.count("results.sent")
        task = asyncio.create_task(self._deliver(room_code, payload), name=f"results-{room_code}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _keep_oldest_vote(dropped: dict[str, Any], payload: dict[str, Any]) -> None:
    """The votes that the dropped totals would have shown are shown by these."""
    if names.OLDEST_VOTE_US in dropped:
        payload[names.OLDEST_VOTE_US] = min(dropped[names.OLDEST_VOTE_US], payload.get(names.OLDEST_VOTE_US, math.inf))
