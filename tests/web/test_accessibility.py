"""axe-core, from npm, finds nothing on any page: on a phone and on a desktop, light and dark, in every state."""

import pytest

from tests.web.accessibility import violations
from tests.web.pages import HostPage, ParticipantPage, VotemillPage

PHONE, DESKTOP = (390, 780), (1366, 768)


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def checked(request, new_page):
    """Opens pages of one size."""
    return lambda: new_page(*request.param)


def test_no_page_keeps_anybody_out(checked, create_poll):
    seen = {}

    def look(name, page):
        # In the dark nothing but the colours is different.
        for colours, rules in {"light": {}, "dark": {"runOnly": ["color-contrast"]}}.items():
            page.emulate_media(color_scheme=colours, reduced_motion="reduce")  # no colour in the middle of its change
            seen[f"{name}, {colours}"] = violations(page, rules)

    # Given a start page with a mistake in the form, and the documents
    start = VotemillPage(checked())
    start.page.goto("/")
    start.part("rules").locator("summary").click()
    start.part("rule-most").fill("two")
    start.part("create-button").click()
    look("start", start.page)
    docs = VotemillPage(checked())
    docs.page.goto("/docs")
    docs.page.locator("details").first.wait_for()
    # (Some of each document: all parts are made alike, and axe takes many seconds for all of them.)
    docs.page.evaluate(
        "document.querySelectorAll('details:nth-of-type(-n + 3)').forEach((part) => { part.open = true; })"
    )
    look("docs", docs.page)
    operations = VotemillPage(checked())
    operations.page.goto("/operations")
    operations.part("token").wait_for()
    look("operations", operations.page)
    # And the pages of a poll, from waiting to its final result
    key_holder = create_poll("Tea or coffee?", ("Tea", "Coffee", "Water"))
    token = key_holder.page.evaluate(
        "JSON.parse(localStorage['votemill.host.' + location.pathname.slice(6)]).hostToken"
    )
    host = HostPage(checked())
    host.page.goto(f"/host/{key_holder.room_code}#{token}")
    host.part("open-button").wait_for()
    ada = ParticipantPage(checked())
    ada.page.goto(f"/j/{host.room_code}")
    ada.part("nickname").wait_for()
    look("join", ada.page)
    ada.joins(host.room_code, "Ada")
    screen = VotemillPage(checked())
    screen.page.goto(f"/screen/{host.room_code}")
    screen.part("bars").wait_for()
    three = {"host": host.page, "participant": ada.page, "screen": screen.page}
    for name, page in three.items():
        look(f"{name}, waiting", page)
    host.opens_voting()
    ada.votes(1)
    host.part("names-button").click()
    host.sees("voted", "Ada")
    for name, page in three.items():
        look(f"{name}, open", page)
    host.closes_voting()
    for viewer in (ada, screen):
        viewer.sees_state("poll-state", "final")
    for name, page in three.items():
        look(f"{name}, final", page)
    host.part("reopen-button").click()
    look("host, asked", host.page)
    # Then axe finds nothing anywhere
    assert {name: found for name, found in seen.items() if found} == {}
