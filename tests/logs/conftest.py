"""What the logs of a running service tell, and what they don't."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.socket_tier.conftest import base_url, kind, new_browser, node_process, node_urls, rest, transport
from tests.socket_tier.waiting import eventually

__all__ = ["base_url", "kind", "new_browser", "node_process", "node_urls", "rest", "transport"]

TRACE = Path(__file__).resolve().parents[2] / "scripts" / "trace"
_STEP = re.compile(r" *(?P<ms>[\d.]+) ms  [\d:.]+  (?P<who>\S+) +(?P<what>\S+(?: \(\w+\))?) *(?P<more>.*)")


@dataclass(frozen=True)
class Step:
    """A line of ``scripts/trace``."""

    ms: float
    who: str
    what: str
    more: str


def trace(wanted: str, run_dir: Path) -> list[Step]:
    """What scripts/trace prints; nothing when it has found nothing."""
    done = subprocess.run(
        [TRACE, wanted, "--run-dir", run_dir], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    steps = [match for line in done.stdout.splitlines() if (match := _STEP.fullmatch(line))]
    assert len(steps) == len(done.stdout.splitlines()), done.stdout
    return [Step(float(step["ms"]), step["who"], step["what"], step["more"]) for step in steps]


async def traced(wanted: str, run_dir: Path, *last: str) -> list[Step]:
    """The way of ``wanted`` once the logs tell of these steps."""

    def whole() -> list[Step] | None:
        steps = trace(wanted, run_dir)
        return steps if set(last) <= {step.what for step in steps} else None

    try:
        found: list[Step] = await eventually(whole, f"the way of {wanted}, with {last}")
    except AssertionError:
        raise AssertionError(f"no way with {last}: {trace(wanted, run_dir)}") from None
    return found


@pytest.fixture
def new_trace() -> Callable[[], tuple[str, str]]:
    """A trace id nobody has used, and the ``traceparent`` that names it."""

    def make() -> tuple[str, str]:
        trace_id = secrets.token_hex(16)
        return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"

    return make
