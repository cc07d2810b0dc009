"""Counters, levels and timings for StatsD, added up here and sent about once a second.

The hot path only adds to a dict. A StatsD that is away costs nothing but the figures of meanwhile, and a count of that.
Never put room codes or ids in names.
"""

import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from statsd import StatsClient

from models.runtime.settings import MetricSettings

_PACKET_BYTES = 1400  # what passes any network in one piece, and few of them: StatsD's socket holds about 90
_TIMINGS_KEPT = 200  # per name and flush; enough for percentiles, bounded
_TIMINGS_PER_LINE = 100
_ZEROS_EVERY_S = 10.0
_REOPEN_EVERY_S = 60.0  # StatsD's name may lead elsewhere by now
_UNRESOLVED_PAUSE_S = 5.0
_VARIABLE_PART = re.compile(r"[a-z0-9_-]{1,40}")

NOT_SENT = "metrics.not_sent"
COUNTERS = {NOT_SENT: "seconds of figures that StatsD did not take, told when it is back"}


@dataclass(frozen=True)
class Names:
    """Every metric of a tier, each with a sentence. ``refusals.*`` is a family: behind the dot comes one of a few words
    of ours."""

    counters: Mapping[str, str]
    gauges: Mapping[str, str]
    timings: Mapping[str, str]


def listed(names: Mapping[str, str], name: str) -> bool:
    """Whether a name, or the family that it belongs to, stands there."""
    if name in names:
        return "*" not in name
    family, _, variable = name.rpartition(".")
    return f"{family}.*" in names and _VARIABLE_PART.fullmatch(variable) is not None


class _Sums(dict[str, int]):
    """Counts by name. One that isn't listed is a programming error, noticed when it is used first."""

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__()
        self._known = known

    def __missing__(self, name: str) -> int:
        assert listed(self._known, name), f"counter {name}"
        return 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What was added up until a moment. Gauges are full names behind the tier's."""

    counts: Mapping[str, int]
    gauges: Mapping[str, float]
    timings: Mapping[str, list[float]]


class Metrics:
    """One per process. For one thread, unless ``shared``; a gauge may be set from any, and ``send`` be called from
    another one."""

    names: ClassVar[Names]

    def __init__(self, settings: MetricSettings, tier: str, instance: str, *, shared: bool = False) -> None:
        self._settings = settings
        self.on = bool(settings.statsd_host)
        self._prefix = f"{settings.prefix}.{tier}"
        self._instance = re.sub(r"[^A-Za-z0-9_-]", "-", instance)
        self._lock: AbstractContextManager[object] = threading.Lock() if shared else nullcontext()
        self._counts = _Sums(self.names.counters)
        self._gauges: dict[str, float] = {}
        self._timings: defaultdict[str, list[float]] = defaultdict(list)
        self._zeros_at = 0.0
        self._sender: _Sender | None = None
        self._open_until = 0.0
        self._not_sent = 0  # flushes
        self._told: int | None = None  # how many, by the last flush, unless that is known to have failed

    def count(self, name: str, by: int = 1) -> None:
        if self.on:
            with self._lock:
                self._counts[name] += by

    def gauge(self, name: str, value: float | None, *, everywhere: bool = False) -> None:
        """A level of this instance, kept until it is set anew; None: it is not known any more.

        The instance is part of the name, since StatsD keeps one level for a name. ``everywhere``: it isn't, as for a
        level that is the same wherever it is looked up.
        """
        if not self.on:
            return
        assert listed(self.names.gauges, name), f"gauge {name}"
        full = name if everywhere else f"instances.{self._instance}.{name}"
        if value is None:
            self._gauges.pop(full, None)
        else:
            self._gauges[full] = value

    def timing_ms(self, name: str, value: float) -> None:
        self.timings_ms(name, (value,))

    def timings_ms(self, name: str, values: Iterable[float]) -> None:
        """Several of one kind; what is beyond the number kept is not even computed."""
        if self.on:
            with self._lock:
                kept = self._timings[name]
                if not kept:
                    assert listed(self.names.timings, name), f"timing {name}"
                if len(kept) < _TIMINGS_KEPT:
                    kept.extend(islice(values, _TIMINGS_KEPT - len(kept)))

    def flush(self) -> None:
        """Send what has been added up since the last time. Never raises because of the network."""
        self.send(self.take())

    def take(self) -> Taken:
        """What was added up since the last time: for ``send``."""
        with self._lock:
            counts, self._counts = self._counts, _Sums(self.names.counters)
            timings, self._timings = self._timings, defaultdict(list)
        if self.on and time.monotonic() >= self._zeros_at:
            # So that what has not happened shows as 0, also to a StatsD that has just started, and not as no data.
            self._zeros_at = time.monotonic() + _ZEROS_EVERY_S
            for name in self.names.counters:
                if "*" not in name:
                    counts.setdefault(name, 0)
        return Taken(counts, dict(self._gauges), timings)

    def send(self, taken: Taken) -> None:
        """Never raises because of the network, and waits for nothing but to have StatsD's host looked up."""
        if not self.on:
            return
        if self._sender is not None and self._sender.was_refused() and self._told is not None:
            self._not_sent += self._told + 1  # it seemed to have been taken
        sender = self._opened()
        if sender is not None and sender.send_all(taken, self._not_sent):
            self._told, self._not_sent = self._not_sent, 0
        else:
            self._told = None
            self._not_sent += 1

    def close(self) -> None:
        """Let go of the socket, until the next ``send``."""
        if self._sender is not None:
            self._sender.close()
            self._sender, self._open_until = None, 0.0

    def _opened(self) -> "_Sender | None":
        now = time.monotonic()
        if now >= self._open_until:
            self.close()
            try:
                self._sender = _Sender(self._settings.statsd_host, self._settings.statsd_port, self._prefix)
                self._open_until = now + _REOPEN_EVERY_S
            except OSError:  # also that the name is not known
                self._open_until = now + _UNRESOLVED_PAUSE_S
        return self._sender


class _Sender(StatsClient):
    """StatsD's client, except that it tells when a packet was not taken, and never waits."""

    def __init__(self, host: str, port: int, prefix: str) -> None:
        super().__init__(host, port, prefix, maxudpsize=_PACKET_BYTES)
        self._sock.setblocking(False)
        # Connected, so that the kernel is told, and tells us, when nobody listens there.
        self._sock.connect(self._addr)
        self._failed = False

    def was_refused(self) -> bool:
        """Whether nobody took what was sent last."""
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def send_all(self, taken: Taken, not_sent: int) -> bool:
        """Whether all went out, as far as is known by then."""
        self._failed = False
        with self.pipeline() as pipe:
            if not_sent:
                pipe.incr(NOT_SENT, not_sent)
            for name, count in taken.counts.items():
                pipe.incr(name, count)
            for name, level in taken.gauges.items():
                pipe.gauge(name, level)
            for name, values in taken.timings.items():
                for start in range(0, len(values), _TIMINGS_PER_LINE):
                    # Several values behind one name, which the client has no call for.
                    line = ":".join(f"{value:.2f}|ms" for value in values[start : start + _TIMINGS_PER_LINE])
                    pipe._send_stat(name, line, 1)
        return not self._failed

    def _send(self, data: str) -> None:
        try:
            self._sock.send(data.encode("ascii"))
        except OSError:
            self._failed = True
