"""Ctrl-C and SIGTERM, for commands that have something to put in order before they end."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    Said for SIGINT, too: a shell without job control has what it starts in the background ignore it, and Python leaves
    it so.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
