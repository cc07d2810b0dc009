"""What operators change at runtime."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from models.wire import names
from scripts import log_level, runtime_settings
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
    # And the workers log more
    log = run_dir / "log" / "host-worker-1.log"
    end = len(log.read_text())
    await eventually(lambda: " DEBUG " in log.read_text()[end:], "a line of the worker's at that level")
    # And it can be taken back
    answer = await rest.request("PUT", PATH, json={"level": None, "logger": "workers"}, headers=admin)
    assert "workers" not in answer.body["levels"]


async def has(levels, logger: str, level: str | None) -> bool:
    return (await levels).get(logger) == level


@pytest.mark.proves("FR-021")
async def test_a_log_level_goes_back_by_itself_also_while_redis_was_emptied(
    rest: Rest, node_urls: list[str], admin: dict[str, str], redis_url: str
) -> None:
    body = {"level": "DEBUG", "logger": "socket_tier.presence", "seconds": 4}
    answer = await rest.request("PUT", PATH, json=body, headers=admin)
    assert answer.body["levels"]["socket_tier.presence"] == "DEBUG"
    assert answer.body["until"].keys() == {"socket_tier.presence"}
    client = redis.from_url(redis_url)
    client.delete(names.SETTINGS_KEY)
    client.close()

    async def levels(url: str) -> dict[str, str]:
        return (await rest.get(PATH, url=url, headers=admin)).body["levels"]

    for wanted in ("DEBUG", None):
        for url in node_urls:
            await eventually(
                lambda url=url, to=wanted: has(levels(url), "socket_tier.presence", to), f"{wanted} at {url}"
            )


@pytest.mark.proves("FR-021")
def test_the_command_sets_and_takes_back_a_level(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["loglevel", "--url", base_url, *arguments])
        return log_level.main()

    assert run("debug", "--logger", "workers.retention", "--for", "60") == 0
    assert "workers.retention DEBUG until 20" in capsys.readouterr().out
    assert run("loud") == 1
    assert "Level must be one of" in capsys.readouterr().err
    assert run("reset", "--logger", "workers.retention") == 0
    assert "root INFO\n" in capsys.readouterr().out
    assert run() == 0
    assert "workers.retention" not in capsys.readouterr().out


@pytest.mark.proves("FR-021", "FR-023")
@pytest.mark.usefixtures("taken_back")
async def test_what_was_written_at_one_node_is_read_at_once_at_the_other(
    rest: Rest, node_urls: list[str], admin: dict[str, str]
) -> None:
    writer, reader = node_urls
    for round_ in range(5):
        # When a level and a setting are changed by way of one node
        level = ("DEBUG", None)[round_ % 2]
        body = {"level": level, "logger": "workers.sweep"}
        await rest.request("PUT", PATH, json=body, headers=admin, url=writer)
        tick_s = 0.3 + round_ / 100
        await rest.request("PUT", SETTINGS, json={"room.tick_s": tick_s}, headers=admin, url=writer)
        # Then the very next look at the other one shows both
        assert (await rest.get(PATH, url=reader, headers=admin)).body["levels"].get("workers.sweep") == level
        shown = (await rest.get(SETTINGS, url=reader, headers=admin)).body
        assert shown["settings"]["room.tick_s"] == tick_s and "stale" not in shown
    await rest.request("PUT", PATH, json={"level": None, "logger": "workers.sweep"}, headers=admin, url=writer)


@pytest.mark.proves("FR-012", "US2.3")
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
async def test_nobody_else_may(rest: Rest, headers: dict[str, str]) -> None:
    read = await rest.get(PATH, headers=headers)
    write = await rest.request("PUT", PATH, json={"level": "DEBUG"}, headers=headers)
    assert (read.status, write.status) == (403, 403)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"level": "LOUD"},
        {"level": "INFO", "logger": "a b"},
        {"level": "INFO", "more": 1},
        {"level": "INFO", "seconds": 0},
        {"level": "INFO", "seconds": True},
        {"logger": "a"},
        [],
        "INFO",
    ],
)
async def test_nonsense_is_refused(rest: Rest, admin: dict[str, str], body: object) -> None:
    assert (await rest.request("PUT", PATH, json=body, headers=admin)).status == 400


DEPLOYMENTS = "/api/config/deployments"
NEWS = {"environment": "staging", "image": "votemill:1", "by": "ada", "outcome": "ok"}


@pytest.mark.proves("SC-009")
@pytest.mark.parametrize(
    "change", [{"outcome": "maybe"}, {"by": ""}, {"image": 1}, {"problem": "x" * 2001}, {"more": "x"}]
)
async def test_no_deployment_is_recorded_that_makes_no_sense(
    rest: Rest, admin: dict[str, str], change: dict[str, object]
) -> None:
    assert (await rest.request("POST", DEPLOYMENTS, json=NEWS | change, headers=admin)).status == 400


@pytest.mark.proves("SC-009")
async def test_nobody_else_records_a_deployment(rest: Rest) -> None:
    assert (await rest.request("POST", DEPLOYMENTS, json=NEWS)).status == 403


SETTINGS = "/api/config/settings"


@pytest.fixture
async def taken_back(rest: Rest, admin: dict[str, str]) -> AsyncIterator[None]:
    """Afterwards all settings are as they were, for the tests after this one."""
    yield
    changed = (await rest.get(SETTINGS, headers=admin)).body["changed"]
    if changed:
        await rest.request("PUT", SETTINGS, json=dict.fromkeys(changed), headers=admin)


@pytest.mark.proves("FR-023", "SC-010", "US4.5")
@pytest.mark.usefixtures("taken_back")
async def test_a_changed_setting_holds_on_all_nodes_and_workers(
    rest: Rest, node_urls: list[str], run_dir: Path, admin: dict[str, str]
) -> None:
    # Given where the workers' logs end
    logs = [run_dir / "log" / f"{name}.log" for name in ("worker-1", "host-worker-1")]
    ends = [len(log.read_text()) for log in logs]
    # When settings are changed by way of one node
    changes = {"shed.newcomers_buffer_share": 0.4, "worker.tick_s": 0.25}
    answer = await rest.request("PUT", SETTINGS, json=changes, headers=admin)
    assert answer.status == 200 and answer.body["changed"] == changes
    # Then they hold at every other
    for url in node_urls:

        async def share(url: str = url) -> bool:
            answer = await rest.get(SETTINGS, url=url, headers=admin)
            return answer.body["settings"]["shed.newcomers_buffer_share"] == 0.4

        await eventually(share, f"the change at {url}")
    # And in every worker
    for log, end in zip(logs, ends, strict=True):
        await eventually(lambda log=log, end=end: "settings_changed" in log.read_text()[end:], f"it in {log.name}")


@pytest.mark.proves("FR-028")
@pytest.mark.usefixtures("taken_back")
async def test_one_invalid_setting_keeps_all_from_being_changed(rest: Rest, admin: dict[str, str]) -> None:
    changes = {"shed.newcomers_buffer_share": 0.4, "room.tick_s": -1, "node.port": 1}
    answer = await rest.request("PUT", SETTINGS, json=changes, headers=admin)
    assert answer.status == 400 and answer.body["code"] == "invalid_settings"
    assert "room.tick_s: expected a number" in answer.body["error"] and "node.port" in answer.body["error"]

    async def unchanged() -> bool:
        # The other node may not have heard yet that what an earlier test changed was taken back.
        return (await rest.get(SETTINGS, headers=admin)).body["changed"] == {}

    await eventually(unchanged, "no changes")


@pytest.mark.proves("SC-010")
@pytest.mark.usefixtures("taken_back")
async def test_an_emptied_redis_is_told_of_changes_again(rest: Rest, admin: dict[str, str], redis_url: str) -> None:
    await rest.request("PUT", SETTINGS, json={"room.tick_s": 0.3}, headers=admin)
    client = redis.from_url(redis_url)
    client.delete(names.SETTINGS_KEY)

    async def is_back() -> bool:
        return client.hget(names.SETTINGS_KEY, "values") == b'{"room.tick_s":0.3}'

    await eventually(is_back, "the changes in Redis")
    client.close()


@pytest.mark.proves("FR-012")
async def test_settings_are_for_administrators(rest: Rest) -> None:
    read = await rest.get(SETTINGS)
    write = await rest.request("PUT", SETTINGS, json={"shed.read_only": True}, headers={"Authorization": "Bearer no"})
    assert (read.status, write.status) == (403, 403)


@pytest.mark.proves("SC-010")
@pytest.mark.usefixtures("taken_back")
def test_the_command_changes_and_lists_settings(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["settings", "--url", base_url, *arguments])
        return runtime_settings.main()

    assert run("set", "room.tick_s=0.3", "room.results_per_s=3000") == 0
    assert "* room.tick_s = 0.3" in capsys.readouterr().out
    assert run("set", "room.tick_s=never") == 1
    assert "room.tick_s: expected a number" in capsys.readouterr().err
    assert run("reset", "room.tick_s", "room.results_per_s") == 0
    assert "  room.results_per_s = 4000" in capsys.readouterr().out
