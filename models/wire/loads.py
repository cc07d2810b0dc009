"""What processes tell others by way of Redis: nodes their load, for the scaler, and workers the time, for nodes."""

import msgspec


class NodeLoad(msgspec.Struct, frozen=True):
    """``lag_s``: how late the event loop runs. ``draining``: its people are on their way to other nodes."""

    name: str
    connections: int
    lag_s: float
    draining: bool


class SharedTime(msgspec.Struct, frozen=True):
    """The shared time is Redis' and ``ahead_us``, give or take ``error_us``; measured at ``at_us`` by Redis' clock.

    All in microseconds.
    """

    ahead_us: int
    error_us: int
    at_us: int
