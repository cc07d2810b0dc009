"""What the host's page offers beside opening and closing."""

import csv
import io
import json

from playwright.sync_api import expect

from socket_tier.pages import WEB
from tests.web.pages import HostPage, ParticipantPage, VotemillPage

JSQR = WEB / "node_modules" / "jsqr" / "dist" / "jsQR.js"
READ_QR = """(svg) => {
  const [left, top, side] = svg.getAttribute("viewBox").split(" ").map(Number);
  const canvas = Object.assign(document.createElement("canvas"), { width: side * 6, height: side * 6 });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(6, 0, 0, 6, -left * 6, -top * 6);
  pen.fillStyle = "#000";
  pen.fill(new Path2D(svg.querySelector("path").getAttribute("d")));
  return jsQR(pen.getImageData(0, 0, canvas.width, canvas.height).data, canvas.width, canvas.height)?.data;
}"""


def read_qr(viewer):
    viewer.page.evaluate(JSQR.read_text())
    return viewer.part("qr").locator("svg").evaluate(READ_QR)


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


def test_the_qr_codes_lead_to_the_poll(create_poll, new_page):
    host = create_poll()
    screen = VotemillPage(new_page(1280, 720))
    screen.page.goto(f"/screen/{host.room_code}")
    screen.part("bars").wait_for()
    link = host.part("join-link").input_value()
    assert read_qr(host) == link and link.endswith(f"/j/{host.room_code}")
    assert read_qr(screen).endswith(f"/j/{host.room_code}")


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


def test_several_polls_of_one_browser_are_found_again(create_poll):
    # Given a browser with two polls, whose page was closed
    first = create_poll("Tea or coffee?")
    context, code = first.page.context, first.room_code
    page = context.new_page()
    page.goto("/")
    page.get_by_test_id("question").fill("Now or later?")
    page.get_by_test_id("option-input-0").fill("Now")
    page.get_by_test_id("option-input-1").fill("Later")
    page.get_by_test_id("create-button").click()
    HostPage(page).part("open-button").wait_for()
    first.page.close()
    # When its start page is opened again
    page.goto("/")
    expect(page.get_by_test_id("own-list").locator("li")).to_have_count(2)
    # Then each poll is led on from there
    page.get_by_test_id(f"own-{code}").click()
    again = HostPage(page)
    again.sees("question", "Tea or coffee?")
    again.opens_voting()
