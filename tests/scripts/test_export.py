"""scripts/export: a poll's votes from the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import socket
import threading
from pathlib import Path

import pytest

from scripts.poll_export import main
from tests.socket_tier.conftest import NewBrowser, base_url, kind, new_browser, node_process, rest, transport
from tests.socket_tier.rest import Poll, Rest

__all__ = ["base_url", "kind", "new_browser", "node_process", "rest", "transport"]


@pytest.fixture
async def poll(rest: Rest, new_browser: NewBrowser) -> Poll:
    """With two votes, which are stored."""
    poll = await rest.open_poll()
    for name, option in (("Ada", 1), ('Bo "B"', 2)):
        voter = await new_browser().connect()
        joined = await voter.join(poll.code, name.replace('"', "'"))
        assert (await voter.vote(poll.code, joined, option, commandId=name))["success"]
        await voter.hears("vote-recorded", commandId=name)
    return poll


@pytest.mark.parametrize("who", ["host", "admin"])
async def test_host_and_administrator_get_every_vote(
    poll: Poll, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    if who == "host":
        monkeypatch.setenv("VOTEMILL_HOST_TOKEN", poll.host_token)
    file = tmp_path / "votes"
    assert await asyncio.to_thread(main, [poll.code, "--url", base_url, "--out", str(file)]) == 0
    with file.open(newline="") as text:
        rows = list(csv.reader(text))
    assert rows[0] == ["nickname", "option", "first vote", "last vote"]
    wanted = {"Ada": "Option 1", "Bo 'B'": "Option 2"}
    assert {row[0]: row[1] for row in rows[1:]} == wanted
    assert await asyncio.to_thread(main, [poll.code, "--url", base_url, "--out", str(file), "--format", "json"]) == 0
    told = json.loads(file.read_text())
    assert {row["nickname"]: row["option"] for row in told} == wanted
    assert told[0].keys() == {"nickname", "option", "first_vote", "last_vote"}


async def test_a_poll_without_votes_is_an_empty_list(rest: Rest, base_url: str, tmp_path: Path) -> None:
    poll, file = await rest.open_poll(), tmp_path / "votes"
    assert await asyncio.to_thread(main, [poll.code, "--url", base_url, "--out", str(file), "--format", "json"]) == 0
    assert json.loads(file.read_text()) == []


async def test_nobody_else_gets_any(
    poll: Poll, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOTEMILL_HOST_TOKEN", "x")
    file = tmp_path / "votes"
    assert await asyncio.to_thread(main, [poll.code, "--url", base_url, "--out", str(file)]) == 1
    assert "Only host" in capsys.readouterr().err and not file.exists()


def test_an_export_that_is_cut_off_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a node ends it that can't read on."""
    file = tmp_path / "votes"
    file.write_text("of yesterday")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(10_000)
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                caller.sendall(head + b"1a\r\nnickname,option,first vote\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert main(["ABC234", "--url", url, "--out", str(file)]) == 1
        thread.join(10)
    assert file.read_text() == "of yesterday" and "✗" in capsys.readouterr().err
