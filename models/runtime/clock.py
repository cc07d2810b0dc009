"""The time that all processes share, in the unit that all messages use."""

import time


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000
