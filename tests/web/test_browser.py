"""The page in a real browser against a real node: what a host, the voters and the big screen see."""

import re

import pytest
from playwright.sync_api import expect

from tests.web.pages import BROWSER_ARGUMENTS, ParticipantPage, VotemillPage

SCRIPT = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"


@pytest.fixture
def join(new_page):
    """Lets a person with a phone of their own join a room."""
    return lambda room_code, nickname: ParticipantPage(new_page(390, 780)).joins(room_code, nickname)


@pytest.fixture
def open_screen(new_page):
    def open_screen(room_code):
        screen = VotemillPage(new_page(1280, 720))
        screen.page.goto(f"/screen/{room_code}")
        screen.part("bars").wait_for()
        return screen

    return open_screen


def test_everybody_sees_the_totals_move_and_the_final_result(create_poll, join, open_screen):
    # Given a poll with two participants and a big screen
    host = create_poll("Tea or coffee?", ("Tea", "Coffee", "Water"))
    ada, grace = join(host.room_code, "Ada"), join(host.room_code, "Grace")
    screen = open_screen(host.room_code)
    host.sees("participant-count", "2 connected")
    # When both vote and one moves to another option
    host.opens_voting()
    ada.votes(0)
    grace.votes(0)
    host.sees_totals(2, 0, 0)
    grace.votes(2)
    # Then host and screen follow
    for viewer in (host, screen):
        viewer.sees_totals(1, 0, 1)
        viewer.sees("percentage-2", "50%")
    # And a close shows the final result to everybody
    host.closes_voting()
    for viewer in (screen, ada, grace):
        viewer.sees_state("poll-state", "final")
    expect(ada.part("option-1")).to_be_disabled()


def test_a_poll_is_opened_again_only_after_a_question(create_poll, join):
    host = create_poll()
    ada = join(host.room_code, "Ada")
    host.opens_voting()
    host.closes_voting()
    # When the host thinks better of it, nothing happens
    host.part("reopen-button").click()
    host.part("reopen-cancel").click()
    host.sees_state("poll-state", "final")
    # When the host means it, voting goes on
    host.part("reopen-button").click()
    host.part("reopen-confirm").click()
    ada.sees_state("poll-state", "open")
    ada.votes(1)
    host.sees_totals(0, 1)


@pytest.mark.proves("US1.2", "FR-004")
def test_a_participant_who_reopens_the_browser_sees_the_previous_vote(
    create_poll, playwright_driver, chromium_path, base_url, tmp_path
):
    host = create_poll()
    host.opens_voting()

    def open_browser():
        return playwright_driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium_path, args=BROWSER_ARGUMENTS, base_url=base_url
        )

    # Given a participant who has voted and closed the browser
    first_visit = open_browser()
    ParticipantPage(first_visit.new_page()).joins(host.room_code, "Ada").votes(1)
    first_visit.close()
    # When the browser is opened again on the same address
    second_visit = open_browser()
    ada = ParticipantPage(second_visit.new_page())
    ada.page.goto(f"/j/{host.room_code}")
    # Then the participant is the same one and the vote is still marked and counted once
    ada.sees_own_vote(1)
    ada.sees("who", "Ada")
    host.sees_totals(0, 1)
    second_visit.close()


@pytest.mark.proves("FR-004")
def test_a_reload_keeps_the_vote(create_poll, join):
    host = create_poll()
    ada = join(host.room_code, "Ada")
    host.opens_voting()
    ada.votes(1)
    ada.page.reload()
    ada.sees_own_vote(1)
    ada.sees_state("vote-state", "counted")
    ada.votes(0)
    host.sees_totals(1, 0)


@pytest.mark.proves("US1.3", "US6.2", "FR-040")
def test_a_vote_made_offline_arrives_once_when_the_line_is_back(create_poll, join):
    host = create_poll()
    ada = join(host.room_code, "Ada")
    host.opens_voting()
    ada.votes(0)
    # When the line is cut, the page says so
    ada.page.context.set_offline(True)
    ada.sees_state("connection", "offline")
    expect(ada.part("connection-banner")).to_be_visible()
    # And a vote is kept, the latest one only
    ada.taps(0)
    ada.taps(1)
    ada.sees_state("vote-state", "sending")
    # Then it arrives by itself after the reconnect
    ada.page.context.set_offline(False)
    ada.sees_state("connection", "connected")
    ada.sees_state("vote-state", "counted")
    ada.sees_own_vote(1)
    host.sees_totals(0, 1)
    host.sees("vote-count", "1 vote")


@pytest.mark.proves("US1.3")
def test_a_vote_made_offline_survives_closing_the_page(create_poll, join):
    host = create_poll()
    ada = join(host.room_code, "Ada")
    host.opens_voting()
    context = ada.page.context
    context.set_offline(True)
    ada.taps(1)
    ada.sees_state("vote-state", "sending")
    ada.page.close()
    # When the participant comes back later, on a line that works
    context.set_offline(False)
    back = ParticipantPage(context.new_page())
    back.page.goto(f"/j/{host.room_code}")
    # Then the kept vote is sent without another tap
    back.sees_own_vote(1)
    back.sees_state("vote-state", "counted")
    host.sees_totals(0, 1)


def test_two_tabs_are_one_participant_and_both_are_right(create_poll, join):
    host = create_poll()
    first = join(host.room_code, "Ada")
    host.opens_voting()
    first.votes(0)
    second = ParticipantPage(first.page.context.new_page())
    second.page.goto(f"/j/{host.room_code}")
    second.sees_own_vote(0)
    second.votes(1)
    first.sees_own_vote(1)
    host.sees_totals(0, 1)
    host.sees("participant-count", "1 connected")


def test_a_nickname_that_is_taken_is_refused_with_the_servers_words(create_poll, join, new_page):
    host = create_poll()
    join(host.room_code, "Ada")
    impostor = ParticipantPage(new_page())
    impostor.asks_to_join(host.room_code, "ada")
    expect(impostor.part("nickname-error")).to_contain_text("Nickname already taken")
    # And another name works at once
    impostor.part("nickname").fill("Grace")
    impostor.part("join-button").click()
    impostor.part("option-0").wait_for()


@pytest.mark.proves("US2.1", "FR-007")
def test_script_in_a_nickname_is_refused_and_in_a_poll_is_only_text(create_poll, join, open_screen, new_page):
    # Given a poll whose question and option look like script
    host = create_poll(SCRIPT[:90], (SCRIPT[:99], "Coffee"))
    # When an attacker joins with a script tag as the nickname
    attacker = ParticipantPage(new_page())
    attacker.asks_to_join(host.room_code, "<script>window.hacked='yes'</script>")
    expect(attacker.part("nickname-error")).not_to_be_empty()
    # Then everybody sees the poll's texts as they were typed, and nothing was run
    ada, screen = join(host.room_code, "Ada"), open_screen(host.room_code)
    ada.sees("option-text-0", SCRIPT[:99])
    for viewer in (host, screen):
        viewer.sees("bar-text-0", SCRIPT[:99])
        viewer.sees("question", SCRIPT[:90])
    for viewer in (host, screen, ada, attacker):
        assert viewer.page.evaluate("window.hacked") is None
        assert viewer.page.locator("main img, main script, .stage img").count() == 0


@pytest.mark.proves("FR-011")
@pytest.mark.parametrize("path", ["/", "/host/ABC234", "/j/ABC234", "/screen/ABC234"])
def test_no_document_allows_inline_script_or_a_third_party(new_page, path):
    page = new_page()
    response = page.goto(path)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert page.locator("script:not([src]), [style], [onclick]").count() == 0


@pytest.mark.proves("US2.4")
def test_input_that_is_too_long_is_refused_before_and_named_clearly(new_page):
    page = new_page()
    page.goto("/")
    page.get_by_test_id("question").fill("q" * 502)
    page.get_by_test_id("option-input-0").fill("o" * 101)
    page.get_by_test_id("option-input-1").fill("Coffee")
    page.get_by_test_id("create-button").click()
    expect(page.get_by_test_id("question-error")).to_have_text("The question is 2 characters too long.")
    expect(page.get_by_test_id("option-error-0")).to_have_text("An option has at most 100 characters.")
    assert page.url.endswith("/")


@pytest.mark.proves("FR-013", "FR-039")
def test_a_browser_without_the_host_key_can_only_watch(create_poll, new_page):
    host = create_poll()
    stranger = VotemillPage(new_page())
    stranger.page.goto(f"/host/{host.room_code}#not-the-token")
    told = stranger.page.locator("[data-testid=viewer-note]:visible, [data-testid=page-error]:visible")
    expect(told).to_contain_text(re.compile("token|key"))
    expect(stranger.part("open-button")).to_be_hidden()
    assert "#" not in stranger.page.url


def test_the_host_link_works_in_another_browser_and_leaves_the_address_bar(create_poll, new_page):
    host = create_poll()
    token = host.page.evaluate("JSON.parse(localStorage['votemill.host.' + location.pathname.slice(6)]).hostToken")
    laptop = VotemillPage(new_page())
    laptop.page.goto(f"/host/{host.room_code}#{token}")
    laptop.part("open-button").click()
    host.sees_state("poll-state", "open")
    assert "#" not in laptop.page.url


@pytest.mark.proves("FR-039")
def test_an_unknown_code_is_explained_without_internals(new_page):
    page = new_page(390, 780)
    page.goto("/j/ZZZZZZ")
    expect(page.get_by_test_id("page-error")).to_contain_text("Poll not found")
    assert not re.search(r"Traceback|File \"|Error:", page.inner_text("body"))


def test_the_pages_fit_a_phone_of_320_pixels(create_poll, new_page):
    host = create_poll("W" * 120, ("O" * 100, "Coffee"))
    ada = ParticipantPage(new_page(320, 640)).joins(host.room_code, "A" * 50)
    host.page.set_viewport_size({"width": 320, "height": 640})
    start = VotemillPage(new_page(320, 640))
    start.page.goto("/")
    for narrow in (ada, host, start):
        assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 320
