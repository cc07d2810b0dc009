"""A headless Chromium and the pages of a running node, at `base_url`."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from scripts import chromium
from tests.web.pages import BROWSER_ARGUMENTS, WAIT_MS, HostPage

POLL_TRIES = 10


@pytest.fixture(scope="session")
def chromium_path() -> str:
    return chromium.chromium_path()


@pytest.fixture(scope="module")
def playwright_driver() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright_driver: Playwright, chromium_path: str) -> Iterator[Browser]:
    browser = playwright_driver.chromium.launch(executable_path=chromium_path, args=BROWSER_ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture
def new_page(browser: Browser, base_url: str) -> Iterator[Callable[..., Page]]:
    """Opens a page as a person of their own, with own cookies and storage.

    Script errors and violations of the content security policy fail the test.
    """
    contexts, problems = [], []

    def open_page(width: int = 1200, height: int = 800) -> Page:
        context = browser.new_context(base_url=base_url, viewport={"width": width, "height": height})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        return context.new_page()

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def create_poll(new_page: Callable[..., Page]) -> Callable[..., HostPage]:
    """Fills in the form of the start page, as a host does."""

    def create(question: str = "Tea or coffee?", options: tuple[str, ...] = ("Tea", "Coffee")) -> HostPage:
        page = new_page()
        page.goto("/")
        page.get_by_test_id("question").fill(question)
        for index, text in enumerate(options):
            if index >= 2:
                page.get_by_test_id("add-option").click()
            page.get_by_test_id(f"option-input-{index}").fill(text)
        for _ in range(POLL_TRIES):
            page.get_by_test_id("create-button").click()
            page.locator("[data-testid=open-button]:visible, [data-testid=create-error]:visible").wait_for()
            if "/host/" in page.url:
                return HostPage(page)
            page.wait_for_timeout(1000)  # all tests share one address, whose polls are limited
        pytest.fail(page.get_by_test_id("create-error").inner_text())

    return create
