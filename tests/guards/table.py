"""The guards that tests must hold, from guards.toml: what each one says, and what the code is without it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("guards.toml")


class Outdated(Exception):
    """The code that a guard is to be taken out of has changed: the table must follow."""


@dataclass(frozen=True)
class Guard:
    """``code`` stands once in ``file``; with ``without`` in its place the guard is gone. ``tests`` must notice."""

    name: str
    file: str
    code: str
    without: str
    tests: tuple[str, ...]

    def removed(self, root: Path = ROOT) -> str:
        """The file's text without the guard.

        :raises Outdated: the code does not stand there exactly once
        """
        text = (root / self.file).read_text()
        if text.count(self.code) != 1:
            raise Outdated(f"{self.name}: its code stands {text.count(self.code)} times in {self.file}")
        return text.replace(self.code, self.without)


def guards() -> list[Guard]:
    """In the table's order."""
    rows = tomllib.loads(TABLE.read_text())
    return [Guard(name, row["file"], row["code"], row["without"], tuple(row["tests"])) for name, row in rows.items()]
