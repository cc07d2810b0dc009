"""What all tests share: the run folder's addresses. A missing service is a failure and never a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
