"""What a node logs of single votes, events and calls, and what it never does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.tracing import parse
from tests.security.conftest import GuardedNode, guarded_node
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually


@pytest.fixture(scope="module")
def telling_node(run_dir: Path) -> Iterator[GuardedNode]:
    """A node that logs every second vote."""
    with guarded_node(run_dir, "telling", LIMITS__UNLIMITED="true", LOG__VOTE_SAMPLE="2") as node:
        yield node


def lines(node: GuardedNode, event: str) -> list[dict[str, Any]]:
    return [line for text in node.log.read_text().splitlines() if (line := json.loads(text))["event"] == event]


def logs_of(run_dir: Path, *kinds: str) -> dict[str, str]:
    files = [file for kind in kinds for file in run_dir.glob(f"log/{kind}-*.log")]
    return {file.name: file.read_text(errors="replace") for file in files}


@pytest.mark.proves("FR-016")
async def test_one_of_so_many_votes_is_logged_and_each_batch(
    new_browser: NewBrowser, rest: Rest, telling_node: GuardedNode
) -> None:
    poll = await rest.open_poll()
    voter = await new_browser(telling_node.url).connect()
    joined = await voter.join(poll.code, "Ada")
    for number in range(6):
        ack = await voter.vote(poll.code, joined, number % 3)
        # Then a voter who has named nothing is told nothing more for it
        assert ack == {"success": True, "status": "queued"}
    await eventually(lambda: len(lines(telling_node, "vote_recorded")) == 3, "every second vote")
    accepted = lines(telling_node, "vote_accepted")
    assert [line["why"] for line in accepted] == ["traced"] * 3

    def batches() -> dict[str, int]:
        return {line["batch_id"]: line["votes"] for line in lines(telling_node, "batch_confirmed")}

    await eventually(lambda: sum(batches().values()) == 6, "all votes in batches")
    assert {line["batch_id"] for line in accepted} <= batches().keys()


@pytest.mark.proves("FR-015", "FR-016")
async def test_names_and_choices_are_in_no_log(
    new_browser: NewBrowser, rest: Rest, telling_node: GuardedNode, run_dir: Path
) -> None:
    # Given a poll and participants with names that nothing else has, who do all that one can do
    marked = "Zzyzx"
    body = {"question": f"{marked} question?", "options": [f"{marked} one", f"{marked} two"]}
    created = (await rest.request("POST", "/api/polls", url=telling_node.url, json=body)).body
    code, token = created["roomCode"], created["hostToken"]
    host = await new_browser(telling_node.url).connect()
    await host.call("join", {"roomCode": code, "hostToken": token})
    await host.change(code, "open", hostToken=token)
    voter = await new_browser(telling_node.url).connect()
    joined = await voter.join(code, f"{marked} Ada")
    other = await new_browser(telling_node.url).connect()
    assert not (await other.call("join-room", {"roomCode": code, "nickname": f"{marked} Ada"}))["success"]
    assert not (await other.call("join-room", {"roomCode": code, "nickname": f"<{marked}>"}))["success"]
    assert not (await other.call("join-room", {marked: marked}))["success"]
    assert (await voter.vote(code, joined, 1))["success"]
    assert not (await voter.vote(code, joined, 7))["success"]
    await voter.hears("vote-recorded")
    await voter.cut()
    await host.change(code, "closed", hostToken=token)
    await host.hears("vote-update", final=True)
    await rest.get(f"/api/polls/{code}/results.csv", url=telling_node.url, headers={"Authorization": f"Bearer {token}"})
    # When everything that was logged meanwhile is looked through
    await eventually(
        lambda: any(line["path"].endswith(".csv") for line in lines(telling_node, "request_handled")), "it"
    )
    texts = logs_of(run_dir, "node", "worker", "host-worker", "telling")
    # Then it is in none of the logs
    assert len(texts) >= 5 and code in texts[telling_node.log.name]
    assert [name for name, text in texts.items() if marked in text] == []
    # Nor is what anybody has chosen
    told = {
        key
        for text in texts.values()
        for line in text.splitlines()
        if (found := parse(line, ""))
        for key in found.fields
    }
    assert not {key for key in told if "option" in key.lower() or "choice" in key or "nickname" in key}


@pytest.mark.proves("FR-016")
async def test_every_answer_names_what_the_log_has_of_it(rest: Rest, telling_node: GuardedNode) -> None:
    answer = await rest.get("/api/polls/ABCDEF", url=telling_node.url)
    assert answer.headers["x-correlation-id"] == answer.body["correlationId"]

    def handled() -> list[dict[str, Any]]:
        found = lines(telling_node, "request_handled")
        return [line for line in found if line["correlation_id"] == answer.body["correlationId"]]

    (line,) = await eventually(handled, "the line")
    assert (line["path"], line["status"]) == ("/api/polls/ABCDEF", answer.status)
