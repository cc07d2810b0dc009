"""A pytest plugin: knows which test proves what, and keeps the last result of each in the run folder.

``@pytest.mark.proves("FR-004", "US1.2")`` names ids of tests/requirements.toml; an unknown one is an error. With
RUN_DIR set, as scripts/test does, results go to RUN_DIR/proofs.json; a run of some tests leaves the others' results.
scripts/requirements imports this before pytest does, hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import json
import os
import tomllib
from functools import cache
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).with_name("requirements.toml")
RESULTS = "proofs.json"

# Later words win when a test has several phases or parameters.
SEVERITY = ("passed", "skipped", "failed")


@cache
def known_ids() -> dict[str, str]:
    """Each id of the specification with its sentence, in the specification's order."""
    sections = tomllib.loads(REQUIREMENTS.read_text())
    return {identifier: text for section in sections.values() for identifier, text in section.items()}


def ids_of(item: pytest.Item) -> list[str]:
    """What a test proves.

    :raises pytest.UsageError: an id that the specification does not have
    """
    ids = [identifier for mark in item.iter_markers("proves") for identifier in mark.args]
    unknown = sorted(set(ids) - known_ids().keys())
    if unknown:
        raise pytest.UsageError(
            f"{item.nodeid} proves {', '.join(unknown)}, which tests/requirements.toml doesn't have"
        )
    return ids


def name_of(item_id: str) -> str:
    """The test's name without its parameters: one line for all of them."""
    return item_id.partition("[")[0]


def worse(one: str, other: str) -> str:
    """The result that matters of two."""
    return max(one, other, key=SEVERITY.index)


def stored_results(folder: Path) -> dict[str, str]:
    """The last known result of each test, by its name; empty when nothing has run there."""
    try:
        stored: dict[str, str] = json.loads((folder / RESULTS).read_text())
    except (OSError, ValueError):
        return {}
    return stored


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # processes of pytest-xdist report to the one that has started them
        config.pluginmanager.register(ResultKeeper(), "proof-results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ids_of(item)


class ResultKeeper:
    """Gathers each test's worst result and writes all of them when the run ends."""

    def __init__(self) -> None:
        self._results: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = name_of(report.nodeid)
        self._results[name] = worse(self._results.get(name, "passed"), report.outcome)

    def pytest_sessionfinish(self) -> None:
        run_dir = os.environ.get("RUN_DIR")
        if not (run_dir and self._results and Path(run_dir).is_dir()):
            return
        file = Path(run_dir) / RESULTS
        file.write_text(json.dumps(stored_results(Path(run_dir)) | self._results, indent=1, sort_keys=True))
