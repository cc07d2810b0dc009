"""The way to the screens is interrupted: pages say so, votes count, and the totals catch up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from scripts.faults.stack import RunningStack
from tests.breakable import addresses, base_url, run_dir, second_stack
from tests.web.accessibility import violations
from tests.web.pages import WAIT_MS, ParticipantPage, VotemillPage

# Redis is taken away.
__all__ = ["addresses", "base_url", "run_dir"]

pytestmark = second_stack


@pytest.fixture
def stack(run_dir: Path) -> Iterator[RunningStack]:
    stack = RunningStack(run_dir)
    stack.mend()
    yield stack
    stack.mend()


@pytest.mark.proves("FR-038")
def test_host_and_big_screen_say_that_totals_are_paused_and_catch_up(create_poll, new_page, stack):
    host = create_poll()
    host.opens_voting()
    ada = ParticipantPage(new_page(390, 780)).joins(host.room_code, "Ada")
    screen = VotemillPage(new_page(1280, 720))
    screen.page.goto(f"/screen/{host.room_code}")
    screen.sees_totals(0, 0)
    # When Redis hangs, both say that the totals stand still
    stack["redis"].freeze()
    for viewer in (host, screen):
        expect(viewer.part("totals-note")).to_contain_text("Live totals are paused", timeout=WAIT_MS)
        expect(viewer.part("totals-note")).to_be_in_viewport(ratio=1)
        assert violations(viewer.page, {}) == []
    ada.taps(1)
    # And so does a screen that comes meanwhile
    late = VotemillPage(new_page(1280, 720))
    late.page.goto(f"/screen/{host.room_code}")
    expect(late.part("totals-note")).to_contain_text("Live totals are paused", timeout=WAIT_MS)
    # Then they say it no longer when it is back, and the vote of meanwhile is in the totals
    stack["redis"].thaw()
    for viewer in (host, screen):
        viewer.sees_totals(0, 1)
        viewer.sees("totals-note", "")
    ada.sees_state("vote-state", "counted")
