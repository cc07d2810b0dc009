"""Reads the rules' series from Graphite's render API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import aiohttp
import msgspec

from models.runtime.settings import MetricSettings
from scripts.alerts.rules import Rule

_MOST_BYTES = 8_000_000
_LEAST_WINDOW_S = 30.0  # three of StatsD's intervals: the newest one's figures may be on their way


class GraphiteUnread(Exception):
    """It gave no answer that can be used."""


class _Series(msgspec.Struct):
    target: str
    datapoints: list[tuple[float | None, int]]


class Graphite:
    """``haste`` divides the rules' windows."""

    def __init__(self, settings: MetricSettings, haste: float, session: aiohttp.ClientSession) -> None:
        self._url = f"{settings.graphite_url.rstrip('/')}/render"
        self._prefix = settings.prefix
        self._timeout = aiohttp.ClientTimeout(total=settings.graphite_timeout_s)
        self._haste = haste
        self._session = session
        self._decode = msgspec.json.Decoder(list[_Series]).decode

    async def levels(self, rules: Mapping[str, Rule]) -> dict[str, dict[str, float]]:
        """By rule and series, of all that have a known point: one question for the rules of each window.

        :raises GraphiteUnread:
        """
        found: dict[str, dict[str, float]] = {name: {} for name in rules}
        windows: defaultdict[int, list[str]] = defaultdict(list)
        for name, rule in rules.items():
            windows[rule.window_s].append(name)
        for window_s, names in windows.items():
            # The number in front of a series' name says whose it is.
            targets = [
                f"aliasSub({rules[name].target(self._prefix)},'^','{number}:')" for number, name in enumerate(names)
            ]
            for one in await self._render(targets, max(_LEAST_WINDOW_S, window_s / self._haste)):
                number, _, series = one.target.partition(":")
                name = names[int(number)]
                if points := [value for value, _ in one.datapoints if value is not None]:
                    level = rules[name].level(points)
                    of_rule = found[name]
                    key = series if rules[name].by else ""
                    # Two of one name, a node's and a worker's: the one that is due counts.
                    if key not in of_rule or rules[name].due(level):
                        of_rule[key] = level
        return found

    async def _render(self, targets: list[str], window_s: float) -> list[_Series]:
        """:raises GraphiteUnread:"""
        form = aiohttp.FormData([("format", "json"), ("from", f"-{window_s:.0f}s")])
        for target in targets:
            form.add_field("target", target)
        try:
            async with self._session.post(self._url, data=form, timeout=self._timeout) as answer:
                text = bytearray()
                async for chunk in answer.content.iter_chunked(65536):
                    text += chunk
                    if len(text) > _MOST_BYTES:
                        raise GraphiteUnread("it answered too much")
                if answer.status != 200:
                    raise GraphiteUnread(f"it answered with status {answer.status}")
                return self._decode(bytes(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GraphiteUnread(repr(error)) from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise GraphiteUnread("it answered something else than series") from error
