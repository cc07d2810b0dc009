"""The line is cut, slow, or dead in mid-vote: one vote is counted, and the page says what is true soon after."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg2
import pytest
import redis
from playwright.sync_api import Page, WebSocketRoute, expect

from models.wire import names
from scripts.stack.supervision import wait_until
from tests.socket_tier.balancer import COOKIE
from tests.web.pages import RIGHT_WITHIN_S, ParticipantPage

PHONE, DESKTOP = (390, 780), (1366, 768)


@dataclass
class Line:
    """The page's line, held in the hand between browser and server. A WebSocket that is begun while it is cut hangs."""

    cut: bool = False
    mute: bool = False  # the server hears the page, the page hears nothing
    withheld: str | None = None  # what is in packets that the page doesn't hear
    open: list[WebSocketRoute] = field(default_factory=list)
    dead: list[WebSocketRoute] = field(default_factory=list)
    sent_votes: int = 0

    def lead(self, page: Page) -> None:
        page.route_web_socket("**/socket.io/**", self._carry)
        page.route("**/api/**", lambda route: route.abort() if self.cut else route.continue_())

    def goes_away(self) -> None:
        self.cut = True
        for socket in self.open:
            socket.close()
        self.open.clear()

    def dies(self) -> None:
        """What is open leads nowhere from now on and nobody says so; a new connection works."""
        self.dead += self.open
        self.mute = False

    def returns(self) -> None:
        self.cut = self.mute = False

    def _carry(self, socket: WebSocketRoute) -> None:
        if self.cut:
            socket.close()
            return
        server = socket.connect_to_server()
        self.open.append(socket)

        def to_server(packet: str | bytes) -> None:
            self.sent_votes += '"submit-vote"' in str(packet)
            server.send(packet)

        def to_page(packet: str | bytes) -> None:
            if self.mute or socket in self.dead or (self.withheld and self.withheld in str(packet)):
                return
            socket.send(packet)

        socket.on_message(to_server)
        server.on_message(to_page)


@dataclass(frozen=True)
class OnALine(ParticipantPage):
    line: Line


@pytest.fixture
def ada(request, new_page):
    """A participant whose line is in our hands; on a phone, unless the test says otherwise."""
    page, line = new_page(*getattr(request, "param", PHONE)), Line()
    line.lead(page)
    return OnALine(page, line)


@pytest.fixture
def stored(database_url: str) -> Iterator:
    """Reads a room's votes from the database: option index by option index."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def read(room_code: str) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT option_index FROM votes JOIN polls ON polls.id = poll_id WHERE room_code = %s", (room_code,)
            )
            return [row[0] for row in cursor.fetchall()]

    yield read
    connection.close()


@pytest.mark.proves("US1.3", "FR-040")
@pytest.mark.parametrize(("how", "ada"), [("cut", PHONE), ("dead", DESKTOP)], ids=["cut", "dead"], indirect=["ada"])
def test_a_line_lost_after_the_vote_was_sent_counts_it_once(create_poll, ada, stored, how):
    host = create_poll()
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    ada.votes(0)
    # When a vote reaches the server, and its ack never reaches the page
    ada.line.mute = True
    ada.taps(1)
    host.sees_totals(0, 1)
    ada.sees_state("vote-state", "sending")
    # And the line is cut and comes back, or is silently dead
    if how == "cut":
        ada.line.goes_away()
        ada.sees_state("connection", "reconnecting")
        ada.line.returns()
    else:
        ada.line.dies()
    # Then the page sends it again, and it counts once
    ada.sees_state("vote-state", "counted")
    ada.sees_state("connection", "connected")
    ada.sees_own_vote(1)
    assert ada.line.sent_votes >= 3
    host.sees_totals(0, 1)
    assert stored(host.room_code) == [1]


def test_a_vote_that_a_node_accepted_and_took_with_it_is_shown_as_counted(
    create_poll, ada, new_page, stored, base_url, redis_url
):
    host = create_poll()
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    ada.votes(0)
    elsewhere = another_node(ada.page, host.room_code, new_page)
    choices = names.choices_key(host.room_code)
    with redis.Redis.from_url(redis_url) as cache:
        wait_until(lambda: cache.hlen(choices) == 1, 15, "the vote is not in Redis")
        # When a vote is accepted, and its node dies before it says that it is counted, or tells the others of it
        ((participant, earlier),) = cache.hgetall(choices).items()
        ada.line.withheld = "vote-recorded"
        ada.taps(1)
        ada.sees_state("vote-state", "accepted")
        host.sees_totals(0, 1)
        ada.line.goes_away()
        ada.sees_state("connection", "reconnecting")
        wait_until(lambda: cache.hget(choices, participant) != earlier, 15, "the vote is not in Redis")
        cache.hset(choices, participant, earlier)
    ada.line.withheld = None
    ada.page.context.add_cookies([{"name": COOKIE, "value": elsewhere, "url": base_url}])
    ada.line.returns()
    # Then the page finds out by itself
    ada.sees_state("vote-state", "counted")
    ada.sees_own_vote(1)
    host.sees_totals(0, 1)
    assert stored(host.room_code) == [1]


@pytest.mark.parametrize("how", ["cut", "slow", "dead"])
def test_the_page_is_right_soon_after_the_line_is_back(create_poll, ada, stored, how):
    host = create_poll()
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    ada.votes(0)
    took_s = []
    for option in (1, 0, 1):
        # Given a vote in the middle of which the line is lost, for longer than one try to come back takes
        ada.watches_for(option)
        ada.line.mute = True
        ada.taps(option)
        ada.sees_state("vote-state", "sending")
        if how == "cut":
            ada.line.goes_away()
        if how == "dead":
            ada.line.cut = True  # nobody says so, and what is begun anew hangs
        if how != "slow":
            ada.sees_state("connection", "reconnecting")
        ada.page.wait_for_timeout(2500)
        # When it is back
        back_at = time.time()
        ada.line.returns()
        took_s.append(ada.right_at() - back_at)
    # Then the page is right soon, and each vote counts once
    assert min(took_s) < RIGHT_WITHIN_S, took_s
    host.sees_totals(0, 1)
    assert stored(host.room_code) == [1]


@pytest.mark.proves("US6.2")
@pytest.mark.parametrize("ada", [PHONE, DESKTOP], ids=["phone", "desktop"], indirect=True)
def test_what_happened_while_away_is_told_after_the_reconnect(create_poll, ada, new_page):
    host = create_poll()
    grace = ParticipantPage(new_page(*PHONE)).joins(host.room_code, "Grace")
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    ada.votes(0)
    # Given a line that is away while another one votes and the host closes
    ada.line.goes_away()
    ada.sees_state("connection", "reconnecting")
    grace.votes(1)
    host.closes_voting()
    ada.sees_state("poll-state", "open")
    # When it returns
    ada.line.returns()
    # Then the page shows the result, and says what came meanwhile
    ada.sees_state("poll-state", "final")
    expect(ada.part("away")).to_contain_text("While you were away: voting was closed")
    expect(ada.part("away")).to_contain_text("1 vote came in")
    ada.sees("percentage-1", "50%")


def test_a_phone_that_was_locked_tells_what_it_missed(create_poll, ada, new_page):
    host = create_poll()
    grace = ParticipantPage(new_page(*PHONE)).joins(host.room_code, "Grace")
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    # Given a locked screen: the page is hidden, and its line dies
    show_as(ada.page, "hidden")
    ada.line.goes_away()
    grace.votes(1)
    host.closes_voting()
    # When it is unlocked
    ada.line.returns()
    show_as(ada.page, "visible")
    # Then the page is right without a touch
    ada.sees_state("poll-state", "final")
    expect(ada.part("away")).to_contain_text("While you were away: voting was closed")


def test_a_slow_line_shows_honestly_how_far_the_vote_has_come(create_poll, ada, stored):
    host = create_poll()
    host.opens_voting()
    ada.joins(host.room_code, "Ada")
    ada.line.mute = True
    ada.taps(1)
    ada.taps(0)
    # As long as nothing is heard, nothing is claimed
    host.sees("vote-count", "1 vote")
    ada.sees_state("vote-state", "sending")
    ada.line.mute = False
    ada.sees_state("vote-state", "counted")
    ada.sees_own_vote(0)
    host.sees_totals(1, 0)
    assert stored(host.room_code) == [0]


def test_the_big_screen_says_when_totals_are_paused(create_poll, new_page):
    host = create_poll()
    screen = OnALine(new_page(1280, 720), Line())
    screen.line.lead(screen.page)
    screen.page.goto(f"/screen/{host.room_code}")
    screen.part("bars").wait_for()
    # When the node says that it has lost the fan-out, and then that it hears it again
    (socket,) = screen.line.open
    socket.send('42["results-paused",{"reason":"live results are delayed"}]')
    expect(screen.part("totals-note")).to_contain_text("Live totals are paused")
    expect(screen.part("totals-note")).to_have_css("background-color", re.compile(r"rgb\("))
    socket.send('42["results-resumed",{"reason":"live results are back"}]')
    expect(screen.part("totals-note")).to_be_empty()
    # Nor does it go on saying so when the node that lost it is gone
    socket.send('42["results-paused",{"reason":"live results are delayed"}]')
    expect(screen.part("totals-note")).to_contain_text("Live totals are paused")
    screen.line.goes_away()
    screen.line.returns()
    expect(screen.part("totals-note")).to_be_empty()


def node_of(page: Page) -> str:
    """By the balancer's cookie."""
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == COOKIE)


def another_node(page: Page, room_code: str, new_page: Callable[..., Page]) -> str:
    """The balancer sends whoever comes to the node with fewer connections, so screens are soon on both."""
    for _ in range(10):
        screen = new_page()
        screen.goto(f"/screen/{room_code}")
        screen.get_by_test_id("bars").wait_for()
        if (there := node_of(screen)) != node_of(page):
            return there
    pytest.fail("all came to the same node")


def show_as(page: Page, state: str) -> None:
    page.evaluate(
        "(state) => { Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); }",
        state,
    )
