"""Holds the tick: however many workers publish, a room gets one vote-update per tick and never an older version."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from socket_tier.metrics import NodeMetrics

_LOOK_EVERY_S = 1.0
_WEIGHT_OF_NEWS = 0.3  # a room whose tick is longer than the look must not make the stretch swing
_STRETCH_MOST = 10.0


class _Channel:
    """One kind of event to one room."""

    __slots__ = ("pending", "sent_at", "sent_version", "timer")

    def __init__(self) -> None:
        self.sent_version = 0
        self.sent_at = float("-inf")
        self.pending: dict[str, Any] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Ticker:
    """Sends the newest of what is offered, at most once per tick and room: at once, then at the end of the tick.

    ``tick_s(room_code)`` is the room's tick by itself, in seconds. ``deliver(room_code, payload)`` writes to this
    node's members and returns how many. While all rooms together get more than ``frames_per_s``, ticks are stretched:
    votes come before intermediate results.
    """

    def __init__(
        self,
        tick_s: Callable[[str], float],
        deliver: Callable[[str, dict[str, Any]], Coroutine[Any, Any, int]],
        metrics: NodeMetrics,
        frames_per_s: float = math.inf,
    ) -> None:
        self._tick_s = tick_s
        self._deliver = deliver
        self._metrics = metrics
        self._frames_per_s = frames_per_s
        self._frames = 0  # since the last look
        self._wanted = 0.0  # of what is affordable, the share that unstretched ticks would take
        self.stretch = 1.0
        self._channels: dict[str, _Channel] = {}
        self._running: set[asyncio.Task[None]] = set()

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
        channel.pending = payload
        if channel.timer is None:
            loop = asyncio.get_running_loop()
            wait_s = channel.sent_at + self._tick_s(room_code) * self.stretch - loop.time()
            if wait_s <= 0:
                self._send(room_code, channel)
            else:
                channel.timer = loop.call_later(wait_s, self._send, room_code, channel)

    async def run(self) -> None:
        """Fit the stretch to what was sent, once a second."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(_LOOK_EVERY_S)
            self.fit(loop.time() - began)

    def fit(self, elapsed_s: float) -> None:
        """Take in the frames of the last ``elapsed_s`` seconds."""
        frames, self._frames = self._frames, 0
        wanted = frames / elapsed_s * self.stretch / self._frames_per_s
        self._wanted += (wanted - self._wanted) * _WEIGHT_OF_NEWS
        self.stretch = min(max(1.0, self._wanted), _STRETCH_MOST)

    def forget(self, room_code: str) -> None:
        """Nobody here is in the room any more."""
        channel = self._channels.pop(room_code, None)
        if channel is not None and channel.timer is not None:
            channel.timer.cancel()

    def _send(self, room_code: str, channel: _Channel) -> None:
        channel.timer = None
        payload, channel.pending = channel.pending, None
        if payload is None:
            return
        channel.sent_at = asyncio.get_running_loop().time()
        channel.sent_version = payload["version"]
        task = asyncio.create_task(self._counted(room_code, payload), name=f"results-{room_code}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _counted(self, room_code: str, payload: dict[str, Any]) -> None:
        self._frames += await self._deliver(room_code, payload)
