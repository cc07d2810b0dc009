"""The addresses of a stack that a test may break, or whose connections it counts.

A file imports them in place of those of tests/conftest.py, which all tests use at the same time. With a mark it says
on which of two such stacks it takes its turn when tests run side by side: more at once would take more than two cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.faults.stack import RunningStack

# The first test of a group has to wait for its stack.
_PATIENT = pytest.mark.timeout(300)
first_stack = [pytest.mark.xdist_group("first breakable stack"), _PATIENT]
second_stack = [pytest.mark.xdist_group("second breakable stack"), _PATIENT]


@pytest.fixture
def run_dir(breakable_run_dir: Path) -> Path:
    return breakable_run_dir


@pytest.fixture
def addresses(breakable_run_dir: Path) -> dict[str, str]:
    """As in the run folder's ``env``."""
    return RunningStack(breakable_run_dir).env


@pytest.fixture
def base_url(addresses: dict[str, str]) -> str:
    return addresses["BASE_URL"]


@pytest.fixture
def node_urls(addresses: dict[str, str]) -> list[str]:
    return addresses["NODE_URLS"].split(",")


@pytest.fixture
def database_url(addresses: dict[str, str]) -> str:
    return addresses["DATABASE_URL"]


@pytest.fixture
def amqp_url(addresses: dict[str, str]) -> str:
    return addresses["AMQP_URL"]


@pytest.fixture
def redis_url(addresses: dict[str, str]) -> str:
    return addresses["REDIS_URL"]
