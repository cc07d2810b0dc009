"""Holds the tick: however many workers publish, a room gets one vote-update per tick and never an older version."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from socket_tier.metrics import NodeMetrics


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

    ``tick_s(room_code)`` is the room's tick, in seconds. ``deliver(room_code, payload)`` writes to this node's members.
    """

    def __init__(
        self,
        tick_s: Callable[[str], float],
        deliver: Callable[[str, dict[str, Any]], Coroutine[Any, Any, None]],
        metrics: NodeMetrics,
    ) -> None:
        self._tick_s = tick_s
        self._deliver = deliver
        self._metrics = metrics
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
            wait_s = channel.sent_at + self._tick_s(room_code) - loop.time()
            if wait_s <= 0:
                self._send(room_code, channel)
            else:
                channel.timer = loop.call_later(wait_s, self._send, room_code, channel)

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
        task = asyncio.create_task(self._deliver(room_code, payload), name=f"results-{room_code}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
