"""Takes out one guard after the other and demands that a test notices: python -m tests.guards [NAME ...].

Works on a clone of the last commit in .run-guards, which stays for the next time. A guard takes the time of its tests,
about half a minute. Exit status 0 when all are noticed, 1 when one is not, 2 when the tests fail without any change.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.guards.table import ROOT, Guard, guards

_CLONE = ROOT / ".run-guards"
_LONGEST_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of guards (default: all)")
    parser.add_argument("--list", action="store_true", help="show the guards and their tests")
    options = parser.parse_args()
    wanted = [guard for guard in guards() if not options.names or guard.name in options.names]
    if unknown := set(options.names) - {guard.name for guard in wanted}:
        parser.error(f"no such guard: {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(f"{guard.name:<44} {' '.join(guard.tests)}" for guard in wanted))
        return 0
    _prepare()
    if not _pass(sorted({test for guard in wanted for test in guard.tests})):
        print("✗ the tests fail while nothing is taken out")
        return 2
    survivors = [guard.name for guard in wanted if not _noticed(guard)]
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} guards are held by a test")
    return 1 if survivors else 0


def _prepare() -> None:
    if not _CLONE.exists():
        subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, _CLONE], check=True)
    for command in (["fetch", "--quiet", "origin", "HEAD"], ["reset", "--quiet", "--hard", "FETCH_HEAD"]):
        subprocess.run(["git", "-C", _CLONE, *command], check=True)


def _noticed(guard: Guard) -> bool:
    file = _CLONE / guard.file
    whole = file.read_text()
    began = time.monotonic()
    file.write_text(guard.removed(_CLONE))
    try:
        survived = _pass(guard.tests)
    finally:
        file.write_text(whole)
    print(f"{'✗ nobody notices:' if survived else '✓'} {guard.name}  {time.monotonic() - began:.0f} s", flush=True)
    return not survived


def _pass(tests: Sequence[str]) -> bool:
    """:raises RuntimeError: they did not run: neither their passing nor their failing says anything"""
    log = _CLONE / ".run-guards.log"
    with log.open("w") as out:
        done = subprocess.run(
            [_CLONE / "scripts" / "test", "-x", "-q", *tests],
            cwd=_CLONE,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=_LONGEST_S,
            check=False,
        )
    if done.returncode not in (0, 1) or " in " not in _last_line(log):
        raise RuntimeError(f"the tests did not run (exit status {done.returncode}); see {log}")
    return done.returncode == 0


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if " passed" in line or " failed" in line]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
