"""StatsD, carbon and graphite-web as scripts/up --metrics runs them: what is read back is exactly what happened."""

from __future__ import annotations

import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from models.runtime.graphs import read_boards, target
from scripts.faults.guest import Guest
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.metric_targets import rendered, silent
from tests.own_stack import on_own_servers
from tests.replica.conftest import ReplicaStack
from tests.web.conftest import chromium_path
from tests.web.pages import BROWSER_ARGUMENTS

pytestmark = [on_own_servers, pytest.mark.proves("FR-017", "FR-019", "FR-020", "US3.2")]

__all__ = ["chromium_path"]
SHOWN_WITHIN_S = 40  # two of StatsD's intervals, and a busy machine
_FLUSHED_WITHIN_S = 13  # one of StatsD's intervals, and a moment
PATIENCE_MS = 90_000  # figures of a minute are on their way
EXPECTED = {
    "node.votes.accepted": 9,
    "node.votes.refused": 7,
    "node.refusals.invalid_option": 4,
    "node.refusals.voting_not_open": 3,
    "node.errors.votes.client": 7,
    "node.errors.votes.server": 0,
    "node.joins.accepted": 3,
    "node.errors.requests.client": 5,
    "node.refusals.invalid_room_code": 5,
    "node.errors.requests.server": 2,
    "node.refusals.graphs_unavailable": 2,
    "workers.votes.stored": 9,
    "workers.votes.rejected": 0,
    "workers.polls.created": 1,
    "workers.states.changed": 2,
}


class Operations:
    """What an operator sees of a stack."""

    def __init__(self, stack: ReplicaStack) -> None:
        self._stack = stack
        self.graphite_url = stack.env["GRAPHITE_URL"]
        self.token = stack.folder.secret("admin-token")
        self.node = stack.nodes[0]

    def sums(self) -> dict[str, float]:
        """All that was counted since the stack began, by metric."""
        targets = {name: target(f"count {name}", "votemill") for name in EXPECTED}
        return {name: sum(map(sum, rendered(self.graphite_url, one))) for name, one in targets.items()}

    def settled_sums(self) -> dict[str, float]:
        """The same, when what earlier tests have done is in them."""
        sums, since = self.sums(), time.monotonic()
        while time.monotonic() < since + _FLUSHED_WITHIN_S:
            time.sleep(0.5)
            if (now := self.sums()) != sums:
                sums, since = now, time.monotonic()
        return sums

    def graphs(self, board: str = "overview") -> dict[str, object]:
        """:raises RestError: the node has none"""
        return rest.call(self.node, "GET", f"/api/operations/graphs?board={board}&minutes=15", token=self.token)

    def take_graphite_away(self) -> None:
        self._stack["graphite"].kill_and_hold_down()

    def bring_graphite_back(self) -> None:
        self._stack["graphite"].bring_back()
        wait_until(self._graphite_answers, SHOWN_WITHIN_S, "Graphite did not come back")

    def keep_flushes_apart(self) -> None:
        """A StatsD that flushes at the end of carbon's steps of ten seconds may flush into the next one on a busy
        machine, where the flush after it takes its place: let it begin anew at a better second."""
        statsd = self._stack["statsd"]
        while round(began(statsd.pid())) % 10 in (7, 8, 9):
            statsd.restart()

    def _graphite_answers(self) -> bool:
        try:
            return not silent(self.graphite_url, ["constantLine(1)"])
        except OSError:
            return False


def began(pid: int | None) -> float:
    """When a process started, in seconds since the epoch."""
    booted = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert booted
    return int(booted[1]) + int(ticks) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def operations(replica_stack: ReplicaStack) -> Operations:
    operations = Operations(replica_stack)
    operations.keep_flushes_apart()
    return operations


@pytest.fixture(scope="module")
def happened(operations: Operations) -> dict[str, float]:
    """Known numbers of votes, refusals and errors; what was counted before."""
    before = operations.settled_sums()
    node = operations.node
    room = rest.open_room(node, 1, 2)
    guests = [Guest(node) for _ in range(3)]
    for number, guest in enumerate(guests):
        assert guest.join(room.code, f"guest {number}").success
        assert all(guest.vote(room.code, option).success for option in (0, 1, 0))
    assert [guests[0].vote(room.code, 7).body["code"] for _ in range(4)] == ["invalid_option"] * 4
    assert guests[0].hears("vote-recorded", SHOWN_WITHIN_S)
    rest.change_state(node, room, "closed")
    assert [guests[1].vote(room.code, 0).body["code"] for _ in range(3)] == ["voting_not_open"] * 3
    for _ in range(5):
        with pytest.raises(rest.RestError, match="Invalid room code"):
            rest.call(node, "GET", "/api/polls/nonsense")
    operations.take_graphite_away()
    for _ in range(2):
        with pytest.raises(rest.RestError, match="Graphite does not answer"):
            operations.graphs()
    operations.bring_graphite_back()
    for guest in guests:
        guest.close()
    return before


def test_graphite_gives_back_exactly_the_votes_refusals_and_errors(
    operations: Operations, happened: dict[str, float]
) -> None:
    def counted() -> dict[str, float]:
        return {name: value - happened[name] for name, value in operations.sums().items()}

    deadline = time.monotonic() + SHOWN_WITHIN_S
    while counted() != EXPECTED and time.monotonic() < deadline:
        time.sleep(0.5)
    assert counted() == EXPECTED


def test_every_line_of_every_graph_has_figures(operations: Operations, happened: dict[str, float]) -> None:
    targets = {
        f"{board.title}: {graph.title}: {label}": target(expression, "votemill")
        for board in read_boards().values()
        for graph in board.graphs
        for label, expression in graph.lines.items()
    }
    deadline = time.monotonic() + SHOWN_WITHIN_S
    missing = targets
    while missing and time.monotonic() < deadline:
        missing = {name: one for name, one in missing.items() if silent(operations.graphite_url, [one])}
        time.sleep(0.5)
    assert not missing
    assert silent(operations.graphite_url, [target("rate node.nothing.of.this_name", "votemill")])


def test_a_graph_is_rendered_as_a_picture(operations: Operations, happened: dict[str, float]) -> None:
    query = urlencode({"target": target("rate node.votes.accepted", "votemill"), "from": "-5min"})
    with urllib.request.urlopen(f"{operations.graphite_url}/render?{query}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


def test_graphite_answers_only_what_reads(operations: Operations, replica_stack: ReplicaStack) -> None:
    for path in ("/", "/admin/", "/render/local", "/events/", "/account/login", "/composer"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(operations.graphite_url + path, timeout=10)
        assert refused.value.code == 404, path
        refused.value.close()


def test_without_the_admin_token_there_are_no_graphs(operations: Operations) -> None:
    for token in ("", "not-the-token"):
        with pytest.raises(rest.RestError, match="Admin token required"):
            rest.call(operations.node, "GET", "/api/operations/graphs", token=token)


@pytest.mark.parametrize("query", ["board=nonsense", "minutes=0", "minutes=10081", "minutes=1e3", "minutes=-5"])
def test_what_was_not_offered_is_refused(operations: Operations, query: str) -> None:
    with pytest.raises(rest.RestError, match="must be"):
        rest.call(operations.node, "GET", f"/api/operations/graphs?{query}", token=operations.token)


@pytest.fixture
def page(chromium_path: str, operations: Operations) -> Iterator[Page]:
    """In a browser of its own; a violation of the content security policy fails the test."""
    problems: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_path, args=BROWSER_ARGUMENTS)
        page = browser.new_page(base_url=operations.node.url)
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        yield page
        browser.close()
    assert problems == []


def test_the_page_asks_for_the_token_draws_the_graphs_and_says_when_graphite_is_away(
    page: Page, operations: Operations, happened: dict[str, float]
) -> None:
    page.goto("/operations")
    page.get_by_test_id("token").fill("not-the-token")
    page.get_by_role("button", name="Show graphs").click()
    expect(page.get_by_test_id("problem")).to_have_text("Admin token required", timeout=PATIENCE_MS)
    page.get_by_test_id("token").fill(operations.token)
    page.get_by_role("button", name="Show graphs").click()
    boards = read_boards()
    expect(page.get_by_test_id("graph")).to_have_count(len(boards["overview"].graphs), timeout=PATIENCE_MS)
    expect(page.get_by_test_id("problem")).to_be_hidden(timeout=PATIENCE_MS)
    assert page.locator("svg path.line").count() > 10
    page.get_by_role("button", name=boards["database"].title).click()
    expect(page.get_by_test_id("graph")).to_have_count(len(boards["database"].graphs), timeout=PATIENCE_MS)
    statements = page.get_by_test_id("graph").filter(has_text="Slowest statements")
    expect(statements.get_by_role("listitem").first).to_be_visible(timeout=PATIENCE_MS)
    operations.take_graphite_away()
    page.get_by_test_id("minutes").select_option("15")
    expect(page.get_by_test_id("problem")).to_contain_text("Graphite does not answer", timeout=PATIENCE_MS)
    operations.bring_graphite_back()
    page.get_by_test_id("minutes").select_option("60")
    expect(page.get_by_test_id("problem")).to_be_hidden(timeout=PATIENCE_MS)
