"""A real browser: what people have typed is shown as text and nothing else, and pages of others get nowhere."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Page, Route

from models.wire import names
from tests.socket_tier.waiting import PATIENCE_S
from tests.web.pages import WAIT_MS, HostPage
from workers.fan_out import Emission, FanOut

_NO_PAGE = re.compile("/(api|assets|socket.io)/")
_REPORTS = "/csp-reports"
BAIT = [
    "<img src=x onerror=\"window.hacked='img'\">",
    "<script>window.hacked='script'</script>",
    "<svg/onload=\"window.hacked='svg'\"><a href=\"javascript:window.hacked='a'\">x</a>",
    "</title><style>*{display:none}</style><iframe srcdoc=\"<script>parent.hacked='frame'</script>\">",
    "{{constructor.constructor('window.hacked=1')()}}${window.hacked='template'}'\"`-->]]>",
]


class Person:
    """Makes pages, each for a person of their own. ``reports`` are the violations of our policy that browsers report.

    The policy stands as the node sends it, but for the address that the reports go to.
    """

    def __init__(self, browser: Browser, base_url: str) -> None:
        self._browser = browser
        self._base_url = base_url
        self._contexts: list[BrowserContext] = []
        self.reports: list[dict[str, Any]] = []

    def __call__(self) -> Page:
        context = self._browser.new_context(base_url=self._base_url)
        context.set_default_timeout(WAIT_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.route(lambda url: url.startswith(self._base_url) and not _NO_PAGE.search(url), self._add_reports)
        page.route(self._base_url + _REPORTS, self._collect)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _add_reports(self, route: Route) -> None:
        answer = route.fetch()
        policy = answer.headers["content-security-policy"] + f"; report-uri {_REPORTS}"
        route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": policy})

    def _collect(self, route: Route) -> None:
        self.reports.append(json.loads(route.request.post_data or "{}")["csp-report"])
        route.fulfill(status=204)


@pytest.fixture
def person(browser: Browser, base_url: str) -> Iterator[Person]:
    person = Person(browser, base_url)
    yield person
    person.close()


class Attacker(http.server.BaseHTTPRequestHandler):
    """A site that answers everything with one page."""

    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(page: str) -> Iterator[str]:
    """The address of an attacker's page."""
    handler = type("Site", (Attacker,), {"page": page.encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="attacker")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def hosts(page: Page, question: str, options: list[str]) -> HostPage:
    """Create a poll, and open it."""
    page.goto("/")
    page.get_by_test_id("question").fill(question)
    for index, text in enumerate(options):
        if index >= 2:
            page.get_by_test_id("add-option").click()
        page.get_by_test_id(f"option-input-{index}").fill(text)
    page.get_by_test_id("create-button").click()
    host = HostPage(page)
    host.opens_voting()
    return host


def wait(page: Page, condition: Callable[[], bool], what: str) -> None:
    for _ in range(int(PATIENCE_S * 20)):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


@pytest.mark.proves("FR-007", "FR-011", "US2.1")
def test_what_was_typed_is_shown_as_typed_and_runs_nowhere(person: Person, redis_url: str) -> None:
    # Given a poll whose question and options are bait
    host = person()
    code = hosts(host, " ".join(BAIT), [bait[:100] for bait in BAIT]).room_code
    # When people join, vote and watch, and a nickname comes that no node would have let in
    voter, screen = person(), person()
    voter.goto(f"/j/{code}")
    voter.get_by_test_id("nickname").fill("O'Brien-_.")
    voter.get_by_test_id("join-button").click()
    voter.get_by_test_id("option-1").click()
    screen.goto(f"/screen/{code}")
    host.wait_for_function("document.querySelector('[data-testid=votes-1]')?.textContent === '1'")
    with redis.Redis.from_url(redis_url) as client:
        joined = {"nickname": BAIT[0], "count": 7, "roomCode": code, "timestamp": "2026-01-01T00:00:00.000Z"}
        FanOut(client).emit([Emission(names.PARTICIPANT_JOINED, joined, names.poll_room(code))])
    # Then each page shows the words
    for page in (host, voter, screen):
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=BAIT[1])
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=BAIT[4][:60])
    pages = [host, voter, screen]
    for page in pages:
        page.wait_for_timeout(100)
        # And none of them has become an element, or has run
        assert page.evaluate("window.hacked") is None
        assert page.locator("iframe, script:not([src]), [onerror], [onload], style, a[href^=javascript]").count() == 0
    # And nothing of ours has violated the policy
    assert person.reports == []
    # While what does is reported
    for page in pages:
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('img'), {src: 'https://evil.example/x'}))"
        )
    wait(host, lambda: len(person.reports) >= len(pages), "the browser's reports")
    assert {report["violated-directive"].split()[0] for report in person.reports} == {"img-src"}


ATTACK = """
<!doctype html><title>prize</title><script>
const node = %(node)s, code = %(code)s, done = {};
const tried = (name, promise) => promise.then(
  value => done[name] = value, error => done[name] = "refused: " + error.name);
const json = {method: "POST", credentials: "include", headers: {"Content-Type": "application/json"},
              body: JSON.stringify({newState: "closed"})};
const socket = path => new Promise((resolve, reject) => {
  const ws = new WebSocket(node.replace("http", "ws") + path);
  ws.onmessage = () => resolve("connected"); ws.onerror = () => reject(new Error("closed"));
});
const script = path => new Promise((resolve, reject) => {
  window.___eio = [text => resolve("read " + text)];
  const tag = document.createElement("script");
  tag.src = node + path; tag.onload = () => resolve("loaded"); tag.onerror = () => reject(new Error("blocked"));
  document.head.append(tag);
});
const frame = path => new Promise(resolve => {
  const tag = document.createElement("iframe");
  tag.src = node + path; tag.onload = () => {
    try { resolve(tag.contentWindow.length === undefined ? "refused: " : "refused: " + tag.contentDocument) }
    catch (error) { resolve("refused: " + error.name) } };
  document.documentElement.append(tag);
});
Promise.all([
  tried("fetch", fetch(node + `/api/polls/${code}/state`, json)),
  tried("read", fetch(node + `/api/polls/${code}`, {credentials: "include"}).then(answer => answer.text())),
  tried("polling", fetch(node + "/socket.io/?EIO=4&transport=polling", {credentials: "include"}).then(a => a.text())),
  tried("websocket", socket("/socket.io/?EIO=4&transport=websocket")),
  tried("jsonp", script("/socket.io/?EIO=4&transport=polling&j=0")),
  tried("json as script", script(`/api/polls/${code}`)),
  tried("simple", fetch(node + `/api/polls/${code}/state`, {...json, mode: "no-cors", headers: {}})
    .then(answer => "refused: " + answer.type)),
  tried("frame", frame(`/host/${code}`)),
]).then(() => window.done = done);
</script>
<form id=form method=post enctype=text/plain target=hidden action="%(action)s">
<input name='{"newState":"closed","x":"' value='"}'></form>
<iframe name=hidden></iframe><script>document.getElementById("form").submit()</script>
"""


@pytest.mark.proves("FR-010", "FR-013", "US2.5")
def test_a_page_of_another_origin_gets_nowhere_with_a_hosts_browser(person: Person, base_url: str) -> None:
    # Given somebody who hosts a poll in this browser, and opens an attacker's page: on the same machine, so that even
    # the cookies, which know no ports, are sent along
    host = hosts(person(), "Tea or coffee?", ["Tea", "Coffee"])
    code = host.room_code
    evil = host.page.context.new_page()
    action = f"{base_url}/api/polls/{code}/state"
    page = ATTACK % {"node": json.dumps(base_url), "code": json.dumps(code), "action": action}
    # When that page tries everything that a page can
    with site(page) as address:
        evil.goto(address)
        evil.wait_for_function("window.done")
        done = evil.evaluate("window.done")
    # Then nothing connects, is read, or is done
    assert done.keys() == {"fetch", "read", "polling", "websocket", "jsonp", "json as script", "simple", "frame"}
    assert all(text.startswith("refused") for text in done.values()), done
    evil.close()
    assert host.part("poll-state").get_attribute("data-state") == "open"
    # And the same from a page of ours does work
    assert host.page.evaluate("fetch(location.origin + '/api/health/live').then(answer => answer.status)") == 200
    host.closes_voting()
