"""A poll's rules on the pages: chosen by the host, shown to everybody, kept by the server."""

import re

from playwright.sync_api import expect

from tests.web.pages import WAIT_MS, HostPage, ParticipantPage, VotemillPage


def create_with_rules(page, *, results="always", change=True, close="", most=""):
    page.goto("/")
    poll = HostPage(page)
    poll.part("question").fill("Tea or coffee?")
    poll.part("option-input-0").fill("Tea")
    poll.part("option-input-1").fill("Coffee")
    poll.part("rules").locator("summary").click()
    poll.part("rule-results").select_option(results)
    poll.part("rule-change").set_checked(change)
    poll.part("rule-close").select_option(close)
    poll.part("rule-most").fill(most)
    poll.part("create-button").click()
    return poll


def created(page, **rules):
    host = create_with_rules(page, **rules)
    host.page.wait_for_url(re.compile(r"/host/[2-9A-HJ-NP-Z]{6}$"))
    host.sees_state("poll-state", "waiting")
    return host


def test_results_show_to_who_has_voted_and_at_the_end_to_all(new_page):
    host = created(new_page(1280, 900), results="after-vote")
    ada, grace = [ParticipantPage(new_page(390, 780)).joins(host.room_code, name) for name in ("Ada", "Grace")]
    screen = VotemillPage(new_page(1280, 720))
    screen.page.goto(f"/screen/{host.room_code}")
    screen.part("bars").wait_for()
    host.opens_voting()
    ada.votes(1)
    # Who has voted sees percentages, the other one why there are none
    ada.sees("percentage-1", "100%")
    host.sees_totals(0, 1)
    words = "Results show to those who have voted, and to all once voting is closed."
    grace.sees("totals-note", words)
    grace.sees("percentage-1", "")
    # The screen tells how many have voted, and draws no bars
    screen.sees("vote-count", "1")
    screen.sees("totals-note", words)
    expect(screen.part("votes-1")).not_to_be_visible()
    host.closes_voting()
    screen.sees_totals(0, 1)
    expect(screen.part("votes-1")).to_be_visible()
    grace.sees("percentage-1", "100%")


def test_where_votes_stand_the_other_options_are_out_of_reach_after_the_vote(new_page):
    host = created(new_page(1280, 900), change=False)
    host.sees("rules-note", "Votes can't be changed.")
    host.opens_voting()
    ada = ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada")
    ada.sees("vote-state", "Tap one to vote. Your choice stands.")
    ada.votes(0)
    ada.sees("vote-state", "Counted.")
    expect(ada.part("option-1")).to_be_disabled()
    expect(ada.part("option-0")).to_be_enabled()


def test_everybody_sees_the_time_run_out_and_voting_close(new_page):
    host = created(new_page(1280, 900), close="30")
    ada = ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada")
    # A phone whose clock is an hour slow shows the same
    late = new_page(390, 780)
    late.add_init_script("{ const now = Date.now; Date.now = () => now() - 3600e3; }")
    grace = ParticipantPage(late).joins(host.room_code, "Grace")
    screen = VotemillPage(new_page(1280, 720))
    screen.page.goto(f"/screen/{host.room_code}")
    expect(host.part("countdown")).to_have_text("")
    host.opens_voting()
    everybody = (host, ada, grace, screen)
    for viewer in everybody:
        expect(viewer.part("countdown")).to_have_text(re.compile(r"Closes in 0:([0-2]\d|30)"), timeout=WAIT_MS)
    ada.votes(1)
    for viewer in everybody:
        expect(viewer.part("poll-state")).to_have_attribute("data-state", "final", timeout=30_000 + WAIT_MS)
        expect(viewer.part("countdown")).to_have_text("")
    host.sees_totals(0, 1)


def test_a_full_poll_says_so_and_a_wrong_limit_is_seen_before_it_is_sent(new_page):
    page = new_page(390, 780)
    form = create_with_rules(page, most="two")
    form.sees("rule-most-error", "Please write a whole number, or nothing.")
    form.part("rule-most").fill("1")
    form.part("create-button").click()
    page.wait_for_url(re.compile(r"/host/[2-9A-HJ-NP-Z]{6}$"))
    host = HostPage(page)
    host.sees_state("poll-state", "waiting")
    host.sees("rules-note", "At most 1 person.")
    ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada")
    grace = ParticipantPage(new_page(390, 780))
    grace.asks_to_join(host.room_code, "Grace")
    expect(grace.part("nickname-error")).to_contain_text("Room is full", timeout=WAIT_MS)
