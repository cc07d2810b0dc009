"""scripts/migration-check: takes every migration down and up again on a database of its own, and loses nothing.

First without data: down must undo all of up, and what is new since the version in service may take nothing away that it
uses. Then with votes: what was stored before a migration must be there after its way down and up, and no lock may be
held for long. At last while votes come in. What may be excused stands in models/migrations/__init__.py.

Exit status: 0 all is well, 1 a migration is refused, 2 wrong usage, 75 the database is away.
"""

from __future__ import annotations

import argparse
import os
import sys

import psycopg2

from models.database import DatabaseUnavailable
from models.runtime.settings import SECTIONS, load_or_exit
from scripts.migrations.check import Check
from scripts.migrations.released import Released, UnknownVersion, released_at
from scripts.stack.progress import say

_NO_COMMIT = "0" * 40  # what a Git server calls the commit before the first


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/migration-check", description=__doc__)
    parser.add_argument("--votes", type=int, default=100_000, help="so many are in the database (default %(default)s)")
    parser.add_argument(
        "--released",
        metavar="COMMIT",
        default=os.environ.get("RELEASED", ""),
        help="the version in service (default: that of RELEASED; without one nothing may be taken away)",
    )
    options = parser.parse_args()
    settings = load_or_exit(unused=SECTIONS.keys() - {"database"}).database
    try:
        in_service = options.released.replace(_NO_COMMIT, "")
        check = Check(settings, released=released_at(in_service) if in_service else Released())
        check.run(options.votes)
    except UnknownVersion as error:
        parser.error(f"--released {options.released}: {error}")
    except (DatabaseUnavailable, psycopg2.OperationalError) as error:
        print(f"migration-check: {error}", file=sys.stderr)
        return 75
    for problem in check.problems:
        say(f"✗ {problem}")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
