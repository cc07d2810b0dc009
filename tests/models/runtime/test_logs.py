"""A line of the log is one event, whatever is in its fields."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from models.runtime import logs
from models.runtime.settings import LogSettings

HOSTILE = 'a\r\n2026-01-01 ERROR forged {"event": "forged"}\x1b[2J\u2028\u202e'


@pytest.fixture(autouse=True)
def own_root() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.mark.proves("FR-007", "FR-015")
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_what_somebody_sent_cant_end_a_line_or_move_the_cursor(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logs.configure(LogSettings(level="INFO", json=as_json), service="s", instance="i", environment="test")
    logging.getLogger("x").warning("path_refused", extra={"path": HOSTILE, "code": "plain"})
    line, *more = capsys.readouterr().out.splitlines()
    assert more == []
    assert line.isprintable()
    if as_json:
        assert (json.loads(line)["event"], json.loads(line)["path"]) == ("path_refused", HOSTILE)
    else:
        assert "code=plain" in line
