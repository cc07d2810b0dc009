"""First import of a Python process with a fake wall clock.

libfaketime takes that clock's error off the monotonic moment until which Python's own sleep waits: it ends at once
or not for days. A wait in select it leaves alone.
"""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    if float(seconds) < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], float(seconds))


time.sleep = _sleep
