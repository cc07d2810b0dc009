"""What one socket saw of the room's results: how many frames, how dense, and when the last totals arrived."""

from collections import deque
from time import monotonic

_WINDOW_S = 1.0


class UpdateWatch:
    """``vote-update`` frames of one socket, without decoding their JSON.

    ``max_per_s``: most frames within any second. ``totals`` (the raw digits between the brackets of ``votes``) and
    ``totals_since`` (monotonic seconds): the newest totals and when they first arrived, repeats apart. ``went_back``:
    frames with an older version than one before.
    """

    __slots__ = ("_recent", "_version", "frames", "max_per_s", "totals", "totals_since", "went_back")

    def __init__(self) -> None:
        self.frames = 0
        self.max_per_s = 0
        self.totals = b""
        self.totals_since = 0.0
        self.went_back = 0
        self._version = 0
        self._recent: deque[float] = deque()

    def saw(self, packet: bytes) -> None:
        """Enter one frame."""
        now = monotonic()
        self.frames += 1
        recent = self._recent
        recent.append(now)
        while recent[0] <= now - _WINDOW_S:
            recent.popleft()
        if len(recent) > self.max_per_s:
            self.max_per_s = len(recent)
        totals = _between(packet, b'"votes":[', b"]")
        if totals != self.totals:
            self.totals = totals
            self.totals_since = now
        version = int(_digits(packet, b'"version":') or 0)
        if version < self._version:
            self.went_back += 1
        self._version = version

    def reconnected(self) -> None:
        """A new socket: density and order start anew, the counts go on."""
        self._recent.clear()
        self._version = 0


def _between(packet: bytes, before: bytes, after: bytes) -> bytes:
    start = packet.find(before)
    if start < 0:
        return b""
    start += len(before)
    return packet[start : packet.find(after, start)]


def _digits(packet: bytes, before: bytes) -> bytes:
    start = packet.find(before)
    if start < 0:
        return b""
    start = end = start + len(before)
    while packet[end : end + 1].isdigit():
        end += 1
    return packet[start:end]
