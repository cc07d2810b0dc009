"""What all tests share: the run folder's addresses. A missing service is a failure and never a skip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import outage_table
from tests.own_stack import keep_to_own_ports, own_stack, side_by_side, without_group


def pytest_configure() -> None:
    if side_by_side():
        keep_to_own_ports()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, a file's tests go to one process together. Before them those for which files name a group, and
    all on pages, one after the other: two browsers at once leave the others no time.
    """
    if not side_by_side():
        return
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    others = [item for item in items if not item.get_closest_marker("xdist_group")]
    for item in others:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("browser" if file.startswith("tests/web/") else file))
    items[:] = grouped + sorted(others, key=lambda item: not item.nodeid.startswith("tests/web/"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    """Never run without groups: tests would break servers under each other's feet."""
    if any(nodeid == without_group(nodeid) for nodeid in ids):
        raise pytest.UsageError("pytest-xdist has not grouped the tests: it needs --dist loadgroup")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Who reads the reports finds a test under the same name, however it was run."""
    if not side_by_side():
        report.nodeid = without_group(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outage_table.show(terminalreporter)


def _from_run_folder(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        pytest.fail(f"{name} is not set: run the tests with scripts/test, which provides the servers")
    return value


@pytest.fixture(scope="session")
def run_dir() -> Path:
    """The run folder of the stack that the tests use."""
    return Path(_from_run_folder("RUN_DIR"))


@pytest.fixture(scope="session")
def base_url() -> str:
    """Where browsers would reach the stack: the load balancer."""
    return _from_run_folder("BASE_URL")


@pytest.fixture(scope="session")
def node_urls() -> list[str]:
    """Each node by itself."""
    return _from_run_folder("NODE_URLS").split(",")


@pytest.fixture(scope="session")
def database_url() -> str:
    return _from_run_folder("DATABASE_URL")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    return _from_run_folder("AMQP_URL")


@pytest.fixture(scope="session")
def redis_url() -> str:
    return _from_run_folder("REDIS_URL")


@pytest.fixture(scope="session")
def breakable_run_dir() -> Iterator[Path]:
    """The run folder of a stack that nobody else uses meanwhile; tests.breakable leads a file's tests to it.

    Side by side it is a stack of this process's own, otherwise the one that all tests use.
    """
    shared = Path(_from_run_folder("RUN_DIR"))
    if not side_by_side():
        yield shared
        return
    with own_stack(shared, "breakable", "--nodes", "2", settings={"WORKER__STRAGGLER_WAIT_S": "6"}) as folder:
        yield folder
