"""What nodes tell of their load, for the scaler: in Redis, where it ends with the node."""

import msgspec


class NodeLoad(msgspec.Struct, frozen=True):
    """``lag_s``: how late the event loop runs. ``draining``: its people are on their way to other nodes."""

    name: str
    connections: int
    lag_s: float
    draining: bool
