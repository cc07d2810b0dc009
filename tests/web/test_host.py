"""What the host's page offers beside opening and closing."""

import csv
import io
import json

from playwright.sync_api import expect

from tests.web.pages import BROWSER_ARGUMENTS, WAIT_MS, HostPage, ParticipantPage, VotemillPage
from tests.web.qr import read_qr


def test_a_poll_is_checked_as_it_is_typed_and_its_options_reordered_and_removed(new_page):
    start = VotemillPage(new_page(390, 780))
    start.page.goto("/")
    # While it is typed, what is wrong is said; what is still empty is not
    start.part("question").fill("q" * 501)
    start.sees("question-error", "The question is 1 character too long.")
    start.part("question").fill("Tea or coffee?")
    expect(start.part("question-error")).to_be_hidden()
    start.part("option-input-0").fill("Tea")
    expect(start.part("option-error-1")).to_be_hidden()
    start.part("option-input-1").fill("Tea")
    start.sees("option-error-1", "This option is there already.")
    start.part("option-input-1").fill("Coffee")
    expect(start.part("option-error-1")).to_be_hidden()
    # Options change places by button and by key, and go
    for text in ("Water", "Milk"):
        start.part("add-option").click()
        start.page.keyboard.type(text)
    start.part("move-up-2").click()
    start.part("option-input-3").press("Alt+ArrowUp")
    start.part("remove-option-0").click()
    texts = [start.part(f"option-input-{index}").input_value() for index in range(3)]
    assert texts == ["Water", "Milk", "Coffee"]
    start.part("create-button").click()
    host = HostPage(start.page)
    for index, text in enumerate(texts):
        host.sees(f"bar-text-{index}", text)


def test_the_code_the_link_and_the_qr_code_lead_to_the_same_poll(create_poll, base_url):
    host = create_poll()
    link = f"{base_url}/j/{host.room_code}"
    expect(host.part("join-link")).to_have_value(link)
    assert read_qr(host.part("qr")) == [link]


def test_the_host_sees_who_has_voted_and_keeps_the_results(create_poll, new_page):
    # Given one who has voted and one who has not, and a host who came later
    host = create_poll()
    host.opens_voting()
    ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada").votes(1)
    grace = ParticipantPage(new_page(390, 780)).joins(host.room_code, "Grace")
    host.page.reload()
    # When the names are asked for, then both are there, each in its list
    host.part("names-button").click()
    host.sees("voted", "Ada")
    host.sees("not-voted", "Grace")
    # And they follow
    grace.votes(0)
    host.sees("not-voted-count", "0")
    # And both files hold them
    files = {}
    for form in ("csv", "json"):
        with host.page.expect_download() as download:
            host.part(f"export-{form}").click()
        assert download.value.suggested_filename == f"votemill-{host.room_code}.{form}"
        files[form] = download.value.path().read_text()
    rows = list(csv.DictReader(io.StringIO(files["csv"])))
    assert {(row["nickname"], row["option"]) for row in rows} == {("Ada", "Coffee"), ("Grace", "Tea")}
    people = json.loads(files["json"])["participants"]
    assert {(person["nickname"], person["optionIndex"]) for person in people} == {("Ada", 1), ("Grace", 0)}


def test_keys_open_close_and_ask_before_a_reopen(create_poll):
    host = create_poll()
    host.page.keyboard.press("o")
    host.sees_state("poll-state", "open")
    host.page.keyboard.press("o")
    host.sees_state("poll-state", "final")
    host.page.keyboard.press("o")
    expect(host.part("reopen-dialog")).to_be_visible()
    host.page.keyboard.press("Escape")
    host.sees_state("poll-state", "final")
    host.page.keyboard.press("n")
    expect(host.part("names")).to_be_visible()
    with host.page.context.expect_page() as screen:
        host.page.keyboard.press("s")
    assert screen.value.url.endswith(f"/screen/{host.room_code}")


def test_the_link_is_copied(create_poll):
    host = create_poll()
    host.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    host.part("copy-link").click()
    host.sees("copy-link", "Copied")
    assert host.page.evaluate("navigator.clipboard.readText()") == host.part("join-link").input_value()


def test_several_polls_are_at_hand_after_the_browser_was_closed(playwright_driver, chromium_path, base_url, tmp_path):
    def open_browser():
        return playwright_driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=chromium_path, args=BROWSER_ARGUMENTS, base_url=base_url
        )

    def create(page, question):
        page.goto("/")
        page.get_by_test_id("question").fill(question)
        page.get_by_test_id("option-input-0").fill("Yes")
        page.get_by_test_id("option-input-1").fill("No")
        page.get_by_test_id("create-button").click()
        page.get_by_test_id("open-button").wait_for(timeout=WAIT_MS)
        return HostPage(page).room_code

    # Given a host with two polls, one of them open, whose browser is closed
    first_visit = open_browser()
    one = create(first_visit.new_page(), "The first?")
    HostPage(first_visit.pages[-1]).opens_voting()
    other = create(first_visit.new_page(), "The second?")
    first_visit.close()
    # When it is opened again
    second_visit = open_browser()
    start = VotemillPage(second_visit.new_page())
    start.page.goto("/")
    # Then both are listed, the newest first, and can be gone on with
    expect(start.part("own-list").locator("li")).to_have_count(2)
    expect(start.part("own-list").locator("li").first).to_contain_text("The second?")
    expect(start.part(f"own-{other}")).to_be_visible()
    start.part(f"own-{one}").click()
    HostPage(start.page).closes_voting()
    # And one can be taken off the list
    start.page.goto("/")
    start.page.get_by_role("button", name=f"Take {other} off the list").click()
    expect(start.part("own-list").locator("li")).to_have_count(1)
    second_visit.close()
