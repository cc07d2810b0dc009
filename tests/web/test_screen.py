"""The big screen: read by phones, from far away, in a dark hall, and by those who want no motion."""

import pytest
from playwright.sync_api import expect

from tests.web.pages import ParticipantPage, VotemillPage
from tests.web.qr import read_qr


@pytest.fixture
def open_screen(new_page):
    def open_screen(room_code, width=1280, height=720, **media):
        page = new_page(width, height)
        page.emulate_media(**media)
        screen = VotemillPage(page)
        page.goto(f"/screen/{room_code}")
        screen.part("bars").wait_for()
        return screen

    return open_screen


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1024, 768)])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_phone_reads_the_way_in_from_the_whole_picture(create_poll, open_screen, base_url, width, height, colours):
    host = create_poll("Which of these five?", ("One", "Two", "Three", "Four", "Five"))
    screen = open_screen(host.room_code, width, height, color_scheme=colours)
    assert read_qr(screen.page) == [f"{base_url}/j/{host.room_code}"]
    screen.sees("room-code", host.room_code)
    # And all of it fits, without scrolling
    assert screen.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    for part in ("qr", "bar-4", "participant-count"):
        expect(screen.part(part)).to_be_in_viewport(ratio=1)


def test_bars_glide_unless_somebody_wants_no_motion(create_poll, open_screen):
    host = create_poll()
    moving = "getComputedStyle(document.querySelector('.bar-fill')).transitionDuration"
    assert open_screen(host.room_code).page.evaluate(moving) not in ("", "0s")
    assert open_screen(host.room_code, reduced_motion="reduce").page.evaluate(moving) == "0s"


def test_the_screen_counts_who_is_here_and_who_has_voted_and_looks_different_at_the_end(
    create_poll, open_screen, new_page
):
    host = create_poll()
    screen = open_screen(host.room_code)
    ada = ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada")
    ParticipantPage(new_page(390, 780)).joins(host.room_code, "Grace")
    host.opens_voting()
    ada.votes(1)
    screen.sees("participant-count", "2")
    screen.sees("vote-count", "1")
    screen.sees("percentage-1", "100%")
    expect(screen.part("qr")).to_be_visible()
    before = screen.page.evaluate("getComputedStyle(document.querySelector('.stage-foot')).backgroundColor")
    # When it is over, nobody is asked in any more, and the band turns
    host.closes_voting()
    screen.sees_state("poll-state", "final")
    expect(screen.part("qr")).to_be_hidden()
    assert before != screen.page.evaluate("getComputedStyle(document.querySelector('.stage-foot')).backgroundColor")
