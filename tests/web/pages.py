"""What a person does on the pages, in a person's words. Every wait has a deadline."""

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

WAIT_MS = 60_000  # totals wait for nodes of other tests that die or have slow clocks
BROWSER_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


RIGHT_WITHIN_S = 3.0  # of the line's return; of several returns the quickest counts, since machines are busy at times
# The page's own clock, so that it does not matter how often a test looks.
WATCH = """
(option) => {
  const part = (id) => document.querySelector(`[data-testid="${id}"]`);
  const look = () => {
    const isRight = part("connection").dataset.state === "connected" && part("vote-state").dataset.state === "counted"
      && part(`option-${option}`).getAttribute("aria-pressed") === "true";
    const { documentElement: { dataset } } = document;
    if (isRight !== "rightAt" in dataset) isRight ? (dataset.rightAt = Date.now()) : delete dataset.rightAt;
  };
  delete document.documentElement.dataset.rightAt;
  new MutationObserver(look).observe(document.body, { subtree: true, attributes: true });
}
"""


@dataclass(frozen=True)
class VotemillPage:
    page: Page

    def part(self, test_id: str) -> Locator:
        return self.page.get_by_test_id(test_id)

    def sees(self, test_id: str, text: str) -> None:
        expect(self.part(test_id)).to_have_text(text, timeout=WAIT_MS)

    def sees_state(self, test_id: str, state: str) -> None:
        """Wait until a part reports a state, such as ``counted`` or ``final``, in its ``data-state``."""
        expect(self.part(test_id)).to_have_attribute("data-state", state, timeout=WAIT_MS)

    def sees_totals(self, *votes: int) -> None:
        for index, count in enumerate(votes):
            self.sees(f"votes-{index}", str(count))


class HostPage(VotemillPage):
    @property
    def room_code(self) -> str:
        return self.part("room-code").inner_text()

    def opens_voting(self) -> None:
        self.part("open-button").click()
        self.sees_state("poll-state", "open")

    def closes_voting(self) -> None:
        self.part("close-button").click()
        self.sees_state("poll-state", "final")


class ParticipantPage(VotemillPage):
    def asks_to_join(self, room_code: str, nickname: str) -> None:
        self.page.goto(f"/j/{room_code}")
        self.part("nickname").fill(nickname)
        self.part("join-button").click()

    def joins(self, room_code: str, nickname: str) -> "ParticipantPage":
        self.asks_to_join(room_code, nickname)
        self.part("option-0").wait_for()
        return self

    def taps(self, option: int) -> None:
        self.part(f"option-{option}").click()

    def votes(self, option: int) -> None:
        """Tap an option and wait until the vote is in the totals."""
        self.taps(option)
        self.sees_own_vote(option)
        self.sees_state("vote-state", "counted")

    def watches_for(self, option: int) -> None:
        """Note from now on, in the page itself, when it is right: connected, and this vote counted."""
        self.page.evaluate(WATCH, option)

    def right_at(self) -> float:
        """When it was right at last, in seconds since the epoch."""
        page = self.page.locator("html")
        expect(page).to_have_attribute("data-right-at", re.compile(r"\d+"), timeout=WAIT_MS)
        return int(page.get_attribute("data-right-at") or "") / 1000

    def sees_own_vote(self, option: int) -> None:
        expect(self.part(f"option-{option}")).to_have_attribute("aria-pressed", "true", timeout=WAIT_MS)
