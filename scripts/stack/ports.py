"""Finds free ports on the loopback interface, below the range from which the kernel takes ports for outgoing calls."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
FIRST, LAST = (
    21000,
    32700,
)  # An outgoing connection may hold any port from 32768 on: a server's start would fail at times.


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(names: list[str], preferred: dict[str, int], taken: set[int]) -> dict[str, int]:
    """A free port for each name: the preferred one where it is still free, and never one of ``taken``."""
    chosen: dict[str, int] = {}
    for name in names:
        used = taken | set(chosen.values())
        wish = preferred.get(name)
        chosen[name] = wish if wish and wish not in used and is_free(wish) else any_free(used)
    return chosen


def next_free(port: int) -> int:
    """The first free port from ``port`` on."""
    return next(candidate for candidate in range(port, LAST) if is_free(candidate))


def any_free(used: Collection[int] = ()) -> int:
    """A free port that nobody is likely to choose in the same moment, and none of ``used``.

    Where STACK_PORTS names a range (``21000-22000``) it is one of those: programs that start and stop servers at the
    same time don't take each other's ports.
    """
    first, _, end = os.environ.get("STACK_PORTS", f"{FIRST}-{LAST}").partition("-")
    candidates = range(int(first), int(end))
    return next(port for port in random.sample(candidates, len(candidates)) if port not in used and is_free(port))


if __name__ == "__main__":
    print(any_free())
