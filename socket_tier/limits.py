"""Token buckets: how much one session or address may ask for."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from models.runtime.settings import LimitSettings
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited

_ADDRESSES_KEPT = 20_000


@dataclass(slots=True)
class Bucket:
    """Holds at most ``burst`` tokens, refilled with ``per_s`` a second."""

    per_s: float
    burst: float
    tokens: float = field(default=-1.0)
    filled_at: float = 0.0

    def wait_s(self, now: float) -> float:
        """Take one token; 0, or the seconds until there is one."""
        if self.tokens < 0:
            self.tokens = self.burst
        else:
            self.tokens = min(self.burst, self.tokens + (now - self.filled_at) * self.per_s)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_s


class Limits:
    """The rate limits of one node. With ``unlimited`` nothing is refused."""

    def __init__(self, settings: LimitSettings, metrics: NodeMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._addresses: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def vote_bucket(self) -> Bucket | None:
        """A session's own bucket; None when votes aren't limited."""
        if self._settings.unlimited:
            return None
        return Bucket(self._settings.votes_per_session_per_s, self._settings.votes_per_session_burst)

    def vote(self, bucket: Bucket | None) -> None:
        """:raises RateLimited:"""
        if bucket is not None:
            self._check(bucket)

    def join(self, address: str) -> None:
        """:raises RateLimited:"""
        self._address("join", address, self._settings.joins_per_address_per_s, self._settings.joins_per_address_burst)

    def create_poll(self, address: str) -> None:
        """:raises RateLimited:"""
        self._address("poll", address, self._settings.polls_per_address_per_s, self._settings.polls_per_address_burst)

    def request(self, address: str) -> None:
        """:raises RateLimited:"""
        self._address(
            "request", address, self._settings.requests_per_address_per_s, self._settings.requests_per_address_burst
        )

    def _address(self, kind: str, address: str, per_s: float, burst: float) -> None:
        if self._settings.unlimited:
            return
        bucket = self._addresses.get((kind, address))
        if bucket is None:
            bucket = self._addresses[kind, address] = Bucket(per_s, burst)
            if len(self._addresses) > _ADDRESSES_KEPT:
                self._addresses.popitem(last=False)  # the one unused for longest: its bucket has filled up meanwhile
        else:
            self._addresses.move_to_end((kind, address))
        self._check(bucket)

    def _check(self, bucket: Bucket) -> None:
        wait_s = bucket.wait_s(time.monotonic())
        if wait_s > 0:
            self._metrics.count("limits.refused")
            raise RateLimited(round(max(wait_s, 0.1), 1))
