"""What operators change at runtime."""

import os
from pathlib import Path

import pytest

from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually

PATH = "/api/config/log-level"


@pytest.fixture
def admin() -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ['VOTEMILL_SECURITY__ADMIN_TOKEN']}"}


@pytest.mark.proves("FR-021")
async def test_a_log_level_set_by_one_node_holds_on_all_and_in_the_workers(
    rest: Rest, node_urls: list[str], run_dir: Path, admin: dict[str, str]
) -> None:
    # When a level is set by way of one node
    answer = await rest.request("PUT", PATH, json={"level": "DEBUG", "logger": "workers"}, headers=admin)
    assert answer.body["levels"]["workers"] == "DEBUG"

    # Then every other node has it soon
    async def levels(url: str) -> dict[str, str]:
        return (await rest.get(PATH, url=url, headers=admin)).body["levels"]

    for url in node_urls:
        await eventually(lambda url=url: has(levels(url), "workers", "DEBUG"), f"the level at {url}")
    # And it can be changed back
    await rest.request("PUT", PATH, json={"level": "INFO", "logger": "workers"}, headers=admin)


async def has(levels, logger: str, level: str) -> bool:
    return (await levels).get(logger) == level


@pytest.mark.proves("FR-012", "US2.3")
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
async def test_nobody_else_may(rest: Rest, headers: dict[str, str]) -> None:
    read = await rest.get(PATH, headers=headers)
    write = await rest.request("PUT", PATH, json={"level": "DEBUG"}, headers=headers)
    assert (read.status, write.status) == (403, 403)


@pytest.mark.parametrize(
    "body", [{}, {"level": "LOUD"}, {"level": "INFO", "logger": "a b"}, {"level": "INFO", "more": 1}, [], "INFO"]
)
async def test_nonsense_is_refused(rest: Rest, admin: dict[str, str], body: object) -> None:
    assert (await rest.request("PUT", PATH, json=body, headers=admin)).status == 400
