"""The operators' graphs, read from Graphite for the page at /operations: the browser needs no way to Graphite."""

import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from models.runtime.graphs import Board, read_boards, target
from models.runtime.settings import MetricSettings
from socket_tier.admin import Admin
from socket_tier.http import json_response
from socket_tier.refusals import ComeBackLater, Invalid, Refused

log = logging.getLogger(__name__)

_MOST_BYTES = 4_000_000
_MOST_MINUTES = 7 * 24 * 60
_POINTS = 240  # per line; as many as a graph is wide, about


class _Series(msgspec.Struct):
    """As Graphite's render API gives it: ``target`` is the name, a point is value and seconds since the epoch."""

    target: str
    datapoints: list[tuple[float | None, int]]


class GraphsUnavailable(ComeBackLater):
    """Graphite gave no answer that can be used."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Graphite {why}: there are no graphs until it is back", "graphs_unavailable", 5)


class Graphs:
    """GET /api/operations/graphs, with the admin token: all graphs of one board, over the last minutes."""

    def __init__(self, settings: MetricSettings, admin: Admin) -> None:
        self._settings = settings
        self._admin = admin
        self._boards = read_boards()
        self._decode = msgspec.json.Decoder(list[_Series]).decode
        self._session: aiohttp.ClientSession | None = None

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get("/api/operations/graphs", self.read)]

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=self._settings.graphite_timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            yield

    async def read(self, request: web.Request) -> web.Response:
        """:raises Refused:"""
        self._admin.demand(request)
        if not self._settings.graphite_url:
            raise Refused("No Graphite is named in the settings (metrics.graphite_url)", "no_graphite", status=404)
        board_id, minutes = self._asked(request)
        board = self._boards[board_id]
        series = await self._render(self._targets(board), minutes)
        body = {
            "success": True,
            "board": board_id,
            "boards": [{"id": other_id, "title": other.title} for other_id, other in self._boards.items()],
            "minutes": minutes,
            "graphs": _drawn(board, series),
        }
        return json_response(body)

    def _asked(self, request: web.Request) -> tuple[str, int]:
        """:raises Invalid:"""
        board_id, minutes = request.query.get("board", next(iter(self._boards))), request.query.get("minutes", "60")
        if board_id not in self._boards:
            raise Invalid(f"board must be one of {', '.join(self._boards)}", "invalid_board")
        if not re.fullmatch(r"[1-9][0-9]{0,4}", minutes, re.ASCII) or int(minutes) > _MOST_MINUTES:
            raise Invalid(f"minutes must be between 1 and {_MOST_MINUTES}", "invalid_minutes")
        return board_id, int(minutes)

    def _targets(self, board: Board) -> list[str]:
        """Of all graphs, for one request; the number in front of a name says of which graph it is."""
        prefix = self._settings.prefix
        return [
            f"aliasSub({target(expression, prefix, label)},'^','{number}:')"
            for number, graph in enumerate(board.graphs)
            for label, expression in graph.lines.items()
        ]

    async def _render(self, targets: Sequence[str], minutes: int) -> list[_Series]:
        """:raises GraphsUnavailable:"""
        assert self._session is not None
        asked = {"format": "json", "from": f"-{minutes}min", "maxDataPoints": str(_POINTS), "target": targets}
        try:
            url = f"{self._settings.graphite_url.rstrip('/')}/render"
            async with self._session.post(url, data=_form(asked), allow_redirects=False) as answer:
                text = bytearray()
                async for chunk in answer.content.iter_chunked(65536):
                    text += chunk
                    if len(text) > _MOST_BYTES:
                        raise GraphsUnavailable("answered too much")
                if answer.status != 200:
                    raise GraphsUnavailable(f"answered with status {answer.status}")
                return self._decode(bytes(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("graphite_unavailable", extra={"error": repr(error)})
            raise GraphsUnavailable("does not answer") from error
        except msgspec.MsgspecError as error:
            raise GraphsUnavailable("answered something else than graphs") from error


def _form(fields: dict[str, str | Sequence[str]]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        for one in [value] if isinstance(value, str) else value:
            form.add_field(name, one)
    return form


def _drawn(board: Board, series: Sequence[_Series]) -> list[dict[str, Any]]:
    graphs: list[dict[str, Any]] = [
        {"title": graph.title, "unit": graph.unit, "says": graph.says, "lines": []} for graph in board.graphs
    ]
    for one in series:
        number, _, name = one.target.partition(":")
        if number.isdigit() and int(number) < len(graphs):
            graphs[int(number)]["lines"].append(
                {"name": name, "points": [(at_s, value) for value, at_s in one.datapoints]}
            )
    return graphs
