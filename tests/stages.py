"""A pytest plugin: which stage of the pipeline a test belongs to, by what it needs. ``--stage=NAME`` runs one stage's.

- ``unit``: no server but what the test itself starts
- ``contract``: a client's view of the service; all it receives is held against openapi.yaml and asyncapi.yaml
- ``integration``: the other tests on real servers
- ``browser``: a person's view, in Chromium, and all else about the pages, for which npm's packages must be there
"""

from __future__ import annotations

from pathlib import Path

import pytest

STAGES = ("unit", "contract", "integration", "browser")
_SERVERS = {"run_dir", "base_url", "node_urls", "database_url", "amqp_url", "redis_url", "breakable_run_dir"}
_CLIENTS = {"new_browser", "rest"}
_CHROMIUM = {"chromium_path"}
_PAGES = Path(__file__).with_name("web")


def stage_of(file: Path, needs: set[str]) -> str:
    """By where a test is, and by the names of its fixtures, with those that they need in turn."""
    if _PAGES in file.parents or needs & _CHROMIUM:
        return "browser"
    if not needs & _SERVERS:
        return "unit"
    return "contract" if needs & _CLIENTS else "integration"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stage", choices=STAGES, help="only the tests of one stage of scripts/pipeline")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--stage")
    if not wanted:
        return
    chosen = [item for item in items if stage_of(item.path, set(getattr(item, "fixturenames", ()))) == wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
