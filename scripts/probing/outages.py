"""The arithmetic of availability: outages, what is not known, and shares of time, from the rounds of a record.

Times are seconds since the epoch. Nothing here reads a file or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from typing import Any, NamedTuple

from scripts.probing.rounds import LIMITED, OK

_LATE_S = 5.0


class Span(NamedTuple):
    begins: float
    ends: float


@dataclass(frozen=True)
class Outage:
    """From the begin of the first round that failed to the end of the next that didn't.

    ``step`` and ``error`` are of the first. Not ``over``: the record ends before.
    """

    span: Span
    step: str
    error: str
    over: bool

    @property
    def lasted_s(self) -> float:
        return self.span.ends - self.span.begins


@dataclass(frozen=True)
class Availability:
    """Of the seconds in question: those known, those down. ``unknown``: when nobody voted."""

    asked_s: float
    known_s: float
    down_s: float
    outages: tuple[Outage, ...]
    unknown: tuple[Span, ...]

    @property
    def percent(self) -> float:
        return 100 * (1 - self.down_s / self.known_s) if self.known_s else 0.0

    @property
    def known_percent(self) -> float:
        return 100 * self.known_s / self.asked_s if self.asked_s else 0.0

    @property
    def recovery_s(self) -> float:
        """The mean time to recovery; of an outage that goes on, the time until now."""
        return sum(outage.lasted_s for outage in self.outages) / len(self.outages) if self.outages else 0.0


def availability(rounds: Iterable[dict[str, Any]], windows: Sequence[Span]) -> Availability:
    """What the rounds tell about these windows, which are in order and apart."""
    told = sorted((line for line in rounds if line["outcome"] != LIMITED), key=lambda line: float(line["at"]))
    down, unknown = list(_outages(told)), list(_gaps(told, windows))
    # An outage lasts until something is seen to work, also where nobody looked meanwhile.
    away = list(overlap(subtract(unknown, [outage.span for outage in down]), windows))
    asked_s = total(windows)
    return Availability(
        asked_s,
        asked_s - total(away),
        total(overlap([outage.span for outage in down], windows)),
        tuple(outage for outage in down if list(overlap([outage.span], windows))),
        tuple(away),
    )


def _outages(told: Sequence[dict[str, Any]]) -> Iterator[Outage]:
    first: dict[str, Any] | None = None
    for line in told:
        if line["outcome"] != OK:
            first = first or line
        elif first is not None:
            yield _outage(first, _end(line), over=True)
            first = None
    if first is not None:
        yield _outage(first, _end(told[-1]), over=False)


def _outage(first: dict[str, Any], ends: float, *, over: bool) -> Outage:
    return Outage(Span(first["at"], ends), str(first.get("step", "")), str(first.get("error", "")), over)


def _gaps(told: Sequence[dict[str, Any]], windows: Sequence[Span]) -> Iterator[Span]:
    """Where the next round came later than it should, before the first and after the last one."""
    if not windows:
        return
    seen_until, every_s = windows[0].begins, float(told[0]["every_s"]) if told else 0.0
    for line in told:
        if line["at"] - seen_until > 2 * every_s + _LATE_S:
            yield Span(seen_until, line["at"])
        seen_until, every_s = max(seen_until, _end(line)), float(line["every_s"])
    if windows[-1].ends - seen_until > 2 * every_s + _LATE_S:
        yield Span(seen_until, windows[-1].ends)


def _end(line: dict[str, Any]) -> float:
    return float(line["at"]) + float(line["took_ms"]) / 1000


def business_hours(within: Span, begins: time, ends: time, zone: tzinfo | None) -> Iterator[Span]:
    """These hours of each day from Monday to Friday."""
    day = datetime.fromtimestamp(within.begins, zone).date() - timedelta(days=1)
    last = datetime.fromtimestamp(within.ends, zone).date()
    while day <= last:
        if day.weekday() < 5:
            hours = Span(*(datetime.combine(day, moment, zone).timestamp() for moment in (begins, ends)))
            yield from overlap([hours], [within])
        day += timedelta(days=1)


def overlap(spans: Iterable[Span], windows: Sequence[Span]) -> Iterator[Span]:
    """The parts of the spans that lie in the windows."""
    for span in spans:
        for window in windows:
            part = Span(max(span.begins, window.begins), min(span.ends, window.ends))
            if part.begins < part.ends:
                yield part


def subtract(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The parts of the spans that lie in none of the others."""
    left = list(spans)
    for other in others:
        pieces = []
        for span in left:
            pieces += [Span(span.begins, min(span.ends, other.begins)), Span(max(span.begins, other.ends), span.ends)]
        left = [piece for piece in pieces if piece.begins < piece.ends]
    return left


def total(spans: Iterable[Span]) -> float:
    """Seconds."""
    return sum(span.ends - span.begins for span in spans)
