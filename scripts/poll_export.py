"""scripts/export: a poll's results, one row per participant who has voted, as CSV or JSON.

It needs the poll's host token in VOTEMILL_HOST_TOKEN, or else the admin token in VOTEMILL_SECURITY__ADMIN_TOKEN. A cell
that a spreadsheet would take for a formula begins with an apostrophe. Exit status: 0 all is there, 2 wrong usage, 1
refused, unanswered, or cut off in the middle (a file is then left as it was).
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import os
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from scripts.admin_calls import add_url, reason

_TIMEOUT_S = 30


def main(words: Sequence[str]) -> int:
    options = parse(words)
    try:
        if options.out is None:
            export(options, sys.stdout)
        else:
            part = options.out.with_name(options.out.name + ".part")
            with part.open("w", newline="") as out:
                export(options, out)
            part.replace(options.out)
    except (OSError, http.client.HTTPException) as error:
        print(f"✗ {reason(error)}", file=sys.stderr)
        return 1
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/export", description=__doc__)
    parser.add_argument("code", help="the room code")
    parser.add_argument("--format", choices=["csv", "json"], default="csv")
    parser.add_argument("--out", type=Path, help="a file (default: stdout)")
    add_url(parser)
    options = parser.parse_args(words)
    if not options.url.startswith(("http://", "https://")):
        parser.error("--url must say where the service is")
    return options


def export(options: argparse.Namespace, out: IO[str]) -> None:
    """:raises OSError, HTTPException: refused, or not whole"""
    token = os.environ.get("VOTEMILL_HOST_TOKEN") or os.environ.get("VOTEMILL_SECURITY__ADMIN_TOKEN", "")
    request = urllib.request.Request(
        f"{options.url.rstrip('/')}/api/polls/{options.code}/results.csv", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # nosec B310: the caller's own address
        lines = io.TextIOWrapper(answer, "utf-8", newline="")
        out.writelines(_as_json(lines) if options.format == "json" else lines)


def _as_json(lines: Iterable[str]) -> Iterable[str]:
    """An array with a line for each row."""
    rows = csv.reader(lines)
    keys = [name.replace(" ", "_") for name in next(rows)]
    before = "[\n"
    for row in rows:
        yield before + json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before.startswith("[") else "\n]\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
