"""Python's cyclic garbage collector, tuned for processes that make many short-lived objects beside many that stay."""

import gc


def calm() -> None:
    """Collect rarely, and never look again at what is there now: call it when everything is imported.

    With thousands of long-lived connections full collections look through all of them again and again: they took half
    of a node's CPU in a wave of arrivals, and a twentieth of a worker's under votes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
