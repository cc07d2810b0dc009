"""scripts/requirements: every id of the specification, the tests that prove it and their last result."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

import pytest

from tests import proofs

MARKS = {"passed": "✓", "failed": "✗", "skipped": "-", "not run": "·"}


class Collector:
    """Takes the collected tests out of a pytest run that executes none."""

    def __init__(self) -> None:
        self.tests_by_id: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for identifier in proofs.ids_of(item):
                tests = self.tests_by_id.setdefault(identifier, [])
                if (name := proofs.name_of(item.nodeid)) not in tests:
                    tests.append(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/requirements", description=__doc__)
    parser.add_argument("--run-dir", default=".run-test", help="where the last results lie (default %(default)s)")
    options = parser.parse_args()
    collector, output = Collector(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(output.getvalue(), file=sys.stderr)
        return 1
    return report(collector.tests_by_id, proofs.stored_results(Path(options.run_dir)))


def report(tests_by_id: dict[str, list[str]], results: dict[str, str]) -> int:
    """Print every id; 1 when a proof's last result was a failure, else 0."""
    failed, unproved = [], []
    for identifier, sentence in proofs.known_ids().items():
        tests = tests_by_id.get(identifier, [])
        print(f"{identifier}  {sentence}")
        for test in tests:
            result = results.get(test, "not run")
            print(f"    {MARKS[result]} {result:<8} {test}")
            failed += [identifier] if result == "failed" else []
        if not tests:
            print("    ! no test proves this yet")
            unproved.append(identifier)
    total = len(proofs.known_ids())
    print(f"\n{total - len(unproved)} of {total} ids have a proof. Without one: {', '.join(unproved) or 'none'}")
    if failed:
        print(f"The last result of a proof was a failure: {', '.join(dict.fromkeys(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
