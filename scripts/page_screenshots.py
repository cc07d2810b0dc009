"""scripts/page-screenshots: host, participant and big screen in the middle of a lively poll, as small PNGs."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from playwright.async_api import Page, async_playwright

from scripts.chromium import chromium_path
from scripts.demo_poll import OPTIONS, QUESTION, fill
from scripts.loadtest import rest
from scripts.loadtest.__main__ import read_env_file
from scripts.operations_screenshots import FOLDER

_WAIT_MS = 30_000
_VOTERS, _SECONDS = 240, 25.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/page-screenshots", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path(".run"), help="the running stack (default %(default)s)")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder of the pictures (default %(default)s)")
    wanted = parser.parse_args()
    url = read_env_file(wanted.run_dir / "env").get("BASE_URL")
    if not url:
        print("✗ nothing runs: scripts/up first", file=sys.stderr)
        return 1
    asyncio.run(take(url, wanted.into))
    return 0


async def take(url: str, folder: Path) -> None:
    """Pages and voters live side by side; the pictures are taken when all have voted."""
    base = rest.parse_base(url)
    room = await asyncio.to_thread(rest.open_poll, base, QUESTION, OPTIONS)
    crowd = asyncio.create_task(fill(base, room, _VOTERS, _SECONDS, arrival_s=8), name="crowd")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])

        async def opened(path: str, width: int, height: int) -> Page:
            page = await (await browser.new_context(viewport={"width": width, "height": height})).new_page()
            page.set_default_timeout(_WAIT_MS)
            await page.goto(f"{base.url}{path}")
            return page

        host = await opened(f"/host/{room.code}#{room.host_token}", 1180, 860)
        screen = await opened(f"/screen/{room.code}", 1120, 630)
        phone = await opened(f"/j/{room.code}", 360, 640)
        await phone.get_by_test_id("nickname").fill("Ada")
        await phone.get_by_test_id("join-button").click()
        await phone.get_by_test_id("option-0").click()
        await phone.locator("[data-testid=vote-state][data-state=counted]").wait_for()
        await screen.get_by_test_id("vote-count").filter(has_text=str(_VOTERS + 1)).wait_for()
        for page, name in ((host, "host"), (phone, "phone"), (screen, "screen")):
            await page.screenshot(path=folder / f"{name}.png")
        await browser.close()
    await crowd
    await asyncio.to_thread(rest.change_state, base, room, "closed")


if __name__ == "__main__":
    sys.exit(main())
