"""Frames that nobody waits for: they ride with the client's next frame, or go by themselves a little later.

A system call costs more than all else in a frame's way out, and a busy node has something for most clients soon.
"""

import asyncio
from collections import deque
from typing import Protocol

_STEP_S = 0.01
_PATIENCE_STEPS = 8  # so long a frame waits for company
_PER_STEP = 20  # clients written to in a step, at least
_DRAIN_STEPS = 25  # of a longer queue this part a step: a broadcast to thousands is spread over about a second


class Waiting(Protocol):
    """A client that may hold such frames. ``held_since``: the step in which the first of them came."""

    held_since: int

    def holds_frames(self) -> bool: ...

    def write_held(self) -> None:
        """Write them now."""

    def left_queue(self) -> None:
        """It must be added again with the next frame that it holds."""


class Unhurried:
    """The queue of clients that hold frames, the longest waiting first. Nothing runs while it is empty."""

    def __init__(self) -> None:
        self.step = 0
        self._queue: deque[tuple[int, Waiting]] = deque()

    def add(self, client: Waiting) -> None:
        """Take in a client that is not in the queue."""
        if not self._queue:
            asyncio.get_running_loop().call_later(_STEP_S, self._next)
        self._queue.append((self.step, client))

    def _next(self) -> None:
        self.step += 1
        queue, ripe = self._queue, self.step - _PATIENCE_STEPS
        try:
            self._write_ripe(queue, ripe)
        finally:  # one client's failure must not hold up the frames of all others for good
            if queue:
                asyncio.get_running_loop().call_later(_STEP_S, self._next)

    def _write_ripe(self, queue: deque[tuple[int, Waiting]], ripe: int) -> None:
        left = max(_PER_STEP, len(queue) // _DRAIN_STEPS)
        while left and queue and queue[0][0] <= ripe:
            _, client = queue.popleft()
            if client.holds_frames() and client.held_since > ripe:
                queue.append((self.step, client))  # it has written meanwhile, and holds what came later
                continue
            if client.holds_frames():
                client.write_held()
                left -= 1
            client.left_queue()
