"""What a person does on the pages, in a person's words. Every wait has a deadline."""

from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

WAIT_MS = 30_000  # totals become final 15 s after a close, when another test's node has just died
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

    def sees_own_vote(self, option: int) -> None:
        expect(self.part(f"option-{option}")).to_have_attribute("aria-pressed", "true", timeout=WAIT_MS)
