"""Counters, gauges and timings for StatsD, added up locally and sent about once a second.

The hot path only adds to a dict; a StatsD that is away costs nothing but lost figures. Never put room codes or ids in
names.
"""

import socket
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice

from statsd import StatsClient

from models.runtime.settings import MetricSettings


class Metrics:
    """One per process. For one thread: adding takes no lock, and a gauge alone may be set from another."""

    _timings_kept = 200  # per name and flush; enough for percentiles, bounded

    def __init__(self, settings: MetricSettings, tier: str, instance: str) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._gauges: dict[str, float] = {}
        self._timings: defaultdict[str, list[float]] = defaultdict(list)
        self._instance = instance.replace(".", "-")
        self.flush_failures = 0
        self._client: StatsClient | None = None
        if settings.statsd_host:
            self._client = StatsClient(settings.statsd_host, settings.statsd_port, f"{settings.prefix}.{tier}")

    def count(self, name: str, by: int = 1) -> None:
        self._counts[name] += by

    def gauge(self, name: str, value: float) -> None:
        """A level of this instance; the instance is part of the name, since daemons overwrite equal names."""
        self._gauges[name] = value

    def timing_ms(self, name: str, value: float) -> None:
        kept = self._timings[name]
        if len(kept) < self._timings_kept:
            kept.append(value)

    def timings_ms(self, name: str, values: Iterable[float]) -> None:
        """Several of one kind; what is beyond the number kept is not even computed."""
        kept = self._timings[name]
        kept.extend(islice(values, self._timings_kept - len(kept)))

    def flush(self) -> None:
        """Send what has been added up since the last call. Never raises on a network error; counts it."""
        counts, timings = self._take()
        if self._client is None:
            return
        try:
            with self._client.pipeline() as pipe:
                for name, value in counts.items():
                    pipe.incr(name, value)
                for name, level in list(self._gauges.items()):
                    pipe.gauge(f"instances.{self._instance}.{name}", level)
                for name, values in timings.items():
                    for duration_ms in values:
                        pipe.timing(name, duration_ms)
        except (OSError, socket.gaierror):
            self.flush_failures += 1

    def _take(self) -> tuple[dict[str, int], dict[str, list[float]]]:
        counts, self._counts = self._counts, defaultdict(int)
        timings, self._timings = self._timings, defaultdict(list)
        return counts, timings
