"""What a check has found, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.runtime.contradictions import DEPLOYED
from models.runtime.settings import Settings

ONE_ACCOUNT = "one account does everything"
MAKE_ACCOUNTS = "scripts/accounts makes one for each role (nomad/README.md, Accounts)"
_AHEAD_S = 0.5
_FAR_S = 5.0


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to do
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"  # could not be asked


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` says what to do."""

    check: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Here:
    """What is looked at, and from where. ``run_dir``: of the stack on this machine, if it is one of scripts/up.

    ``urls``: each node by itself, or the service. ``clock``: ours, seconds since the epoch.
    """

    settings: Settings
    run_dir: Path | None = None
    urls: tuple[str, ...] = ()
    broker_api: str = ""
    clock: Callable[[], float] = time.time

    @property
    def at_fault(self) -> Status:
        """How bad it is what only a deployment must have: a warning there, a note elsewhere."""
        return Status.WARNING if self.settings.environment in DEPLOYED else Status.NOTE

    def hide(self, text: object) -> str:
        """One line, without the passwords of any server."""
        said = " ".join(str(text).split())
        settings = self.settings
        for url in (*settings.database.urls, *settings.broker.urls, *settings.redis.urls, self.broker_api):
            if password := urlsplit(url).password:
                said = said.replace(password, "(hidden)").replace(unquote(password), "(hidden)")
        return said[:300]


Made = Callable[[Here], Iterator[Finding]]


def judged(check: str, good: bool, found: str, otherwise: Status, advice: str) -> Finding:
    """OK, or else what is wrong and what to do."""
    return Finding(check, Status.OK, found) if good else Finding(check, otherwise, found, advice)


def at_most(check: str, value: float, warn: float, fail: float, found: str, advice: str) -> Finding:
    """OK up to ``warn``; failed beyond ``fail``."""
    return judged(check, value <= warn, found, Status.FAILED if value > fail else Status.WARNING, advice)


def guarded(check: str, findings: Iterator[Finding], here: Here) -> Iterator[Finding]:
    """What can't be asked says so, and the rest goes on."""
    try:
        yield from findings
    except Exception as error:
        yield Finding(check, Status.UNKNOWN, f"could not be asked: {here.hide(error) or type(error).__name__}")


def clock(server: str, theirs: float, before: float, after: float) -> Finding:
    """Of a clock that was read between two moments of ours."""
    off = theirs - after if theirs > after else min(0.0, theirs - before)
    found = f"{off:+.1f} s from ours" if abs(off) > _AHEAD_S else "as ours"
    advice = "keep all machines in step (chrony or systemd-timesyncd): logs, graphs and certificates go by these clocks"
    return at_most(f"{server} clock", abs(off), _AHEAD_S, _FAR_S, found, advice)


def version(server: str, found: tuple[int, ...], text: str, least: tuple[int, ...]) -> Finding:
    wanted = ".".join(map(str, least))
    return judged(f"{server} version", found >= least, text, Status.FAILED, f"upgrade to {wanted} or newer")


def numbers(text: str) -> tuple[int, ...]:
    """``3.10.8-1`` as numbers, up to the first that is none."""
    found = []
    for part in text.replace("-", ".").split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
