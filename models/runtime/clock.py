"""The time that all processes share: PostgreSQL's, kept by the monotonic clock from one measurement to the next.

Who measures:

- Workers ask PostgreSQL once a second, and before their first call of any other kind. Redis then has, under
  ``names.CLOCK_KEY``, by how much PostgreSQL's clock is ahead of Redis' (``workers.shared_time``, once a second).
- Nodes never talk to PostgreSQL. They ask Redis for its time and for that difference once a second. A worker's
  heartbeat stands in for both at a node that does not know the time (``socket_tier.clock_watch``).

Each measurement is a round trip, so its error is at most half of it, and grows by ``DRIFT_PPM`` while it is kept. The
one with the smallest error by now is used. Ones that contradict it are believed when nothing has agreed with it for
``_DOUBT_S``: a clock was set, Redis' (until workers say so) or PostgreSQL's (by a failover).

A process that has not measured yet goes by its wall clock's guess and knows that it does (``error_us`` is None). After
the first measurement the wall clock is never looked at, and time never goes back: it waits where it would have to.
"""

import threading
import time
from collections.abc import Callable

DRIFT_PPM = 100  # of a monotonic clock, in microseconds a second
_DOUBT_S = 3.0


class SharedClock:
    """One per process. Safe to share between threads."""

    def __init__(
        self, monotonic_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._offset_ns = wall_ns() - monotonic_ns()
        self._latest_us = 0
        self._error_us: float | None = None
        self._measured_ns = 0
        self._doubted_ns: int | None = None
        self._lock = threading.Lock()

    def now_us(self) -> int:
        """Microseconds since the epoch; never less than before, but for the first measurement."""
        # Called once per vote: a comparison in place of max(), and no lock.
        us = (self._monotonic_ns() + self._offset_ns) // 1000
        if us < self._latest_us:
            return self._latest_us
        self._latest_us = us
        return us

    def error_us(self) -> float | None:
        """How far from the shared time ``now_us`` may be by now; None before the first measurement."""
        return self._error_at(self._monotonic_ns())

    def wall_ahead_ms(self) -> float:
        """By how much this machine's wall clock is ahead of the shared time."""
        return (self._wall_ns() - self._monotonic_ns() - self._offset_ns) / 1e6

    def learn(self, there_us: int, asked_ns: int, answered_ns: int, error_us: float = 0) -> None:
        """The shared time was ``there_us``, give or take ``error_us``, between those moments of ``monotonic_ns``."""
        at_ns = (asked_ns + answered_ns) // 2
        error_us += (answered_ns - asked_ns) / 2000 + 1
        offset_ns = there_us * 1000 - at_ns
        with self._lock:
            known_us = self._error_at(at_ns)
            if known_us is None:
                self._latest_us = 0
            elif abs(offset_ns - self._offset_ns) / 1000 > error_us + known_us:
                if self._doubted_ns is None:
                    self._doubted_ns = at_ns
                if at_ns - self._doubted_ns < _DOUBT_S * 1e9:
                    return
            elif error_us > known_us:
                self._doubted_ns = None
                return
            self._offset_ns, self._error_us, self._measured_ns, self._doubted_ns = offset_ns, error_us, at_ns, None

    def _error_at(self, at_ns: int) -> float | None:
        if self._error_us is None:
            return None
        return self._error_us + abs(at_ns - self._measured_ns) * DRIFT_PPM / 1e9


clock = SharedClock()
now_us = clock.now_us
