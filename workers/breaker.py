"""A circuit breaker that many threads share."""

import random
import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after ``threshold`` failures in a row; then lets one caller at a time try, after growing pauses.

    Closed: everybody passes. Open: nobody, until a jittered pause of at most ``pause_max_s`` seconds is over. On trial
    (half-open): one caller is on its way; its success closes the breaker, its failure opens it for longer.

    ``on_change(state, reason, text)`` is told that it is ``open`` and why, ``still open`` when then a call fails for a
    reason that it was not told yet, and ``closed``, without a reason.
    """

    def __init__(
        self,
        threshold: int = 3,
        pause_s: float = 0.1,
        pause_max_s: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[str, str, str], None] = lambda state, reason, text: None,
    ) -> None:
        self._threshold = threshold
        self._pause_first_s = pause_s
        self._pause_max_s = pause_max_s
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = pause_s
        self._try_at = 0.0
        self._state = "closed"
        self._told: set[str] = set()

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``trial``."""
        return self._state

    def admit(self) -> bool:
        """May the caller go ahead? Whoever is admitted must report ``succeeded``, ``failed`` or ``undecided``."""
        with self._lock:
            if self._state == "closed":
                return True
            if self._state == "open" and self._clock() >= self._try_at:
                self._state = "trial"
                return True
            return False

    def succeeded(self) -> None:
        with self._lock:
            changed = self._state != "closed"
            self._failures = 0
            self._pause_s = self._pause_first_s
            self._state = "closed"
            self._told.clear()
        if changed:
            self._on_change("closed", "", "")

    def failed(self, reason: str = "", text: str = "") -> None:
        """The infrastructure failed, not the caller's data."""
        with self._lock:
            self._failures += 1
            was_closed = self._state == "closed"
            if was_closed and self._failures < self._threshold:
                return
            self._open()
            news = reason not in self._told
            self._told.add(reason)
        if news:
            self._on_change("open" if was_closed else "still open", reason, text)

    def undecided(self) -> None:
        """The call ended without telling anything about the infrastructure; a trial may begin anew."""
        with self._lock:
            if self._state == "trial":
                self._state = "open"

    def trip(self, reason: str = "", text: str = "") -> bool:
        """Open at once: somebody has seen that calls hang. Whether it was closed."""
        with self._lock:
            was_closed = self._state == "closed"
            if was_closed:
                self._open()
                self._told.add(reason)
        if was_closed:
            self._on_change("open", reason, text)
        return was_closed

    def _open(self) -> None:
        # A late failure of a call from before the opening must not lengthen the pause again.
        if self._state != "open":
            self._try_at = self._clock() + self._pause_s * random.uniform(0.5, 1.0)
            self._pause_s = min(self._pause_s * 2, self._pause_max_s)
        self._state = "open"
