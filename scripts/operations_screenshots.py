"""scripts/operations-screenshots: the operators' page in Chromium, and a graph as Graphite renders it, as small
PNGs."""

from __future__ import annotations

import argparse
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from models.runtime.graphs import read_boards, target
from models.runtime.settings import load
from scripts.chromium import chromium_path
from scripts.loadtest.__main__ import read_env_file
from scripts.stack.run_folder import ROOT, RunFolder

FOLDER = ROOT / "socket_tier" / "web" / "screenshots"
_WAIT_MS = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/operations-screenshots", description=__doc__)
    parser.add_argument("--run-dir", default=".run", help="the running stack (default %(default)s)")
    folder = RunFolder(parser.parse_args().run_dir)
    env = read_env_file(folder.env_file)
    if "GRAPHITE_URL" not in env:
        print("✗ the stack runs without Graphite: scripts/up --metrics", file=sys.stderr)
        return 1
    take_page(env["BASE_URL"], folder.secret("admin-token"), FOLDER / "operations.png")
    take_graph(env["GRAPHITE_URL"], FOLDER / "graph.png")
    return 0


def take_page(base_url: str, token: str, picture: Path) -> None:
    """The overview, of the last quarter of an hour."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 900})
        page.set_default_timeout(_WAIT_MS)
        page.goto(f"{base_url}/operations")
        page.get_by_test_id("token").fill(token)
        page.get_by_role("button", name="Show graphs").click()
        page.get_by_test_id("graph").first.wait_for()
        with page.expect_response(lambda answer: "minutes=15" in answer.url):
            page.get_by_test_id("minutes").select_option("15")
        page.locator("svg .line").first.wait_for()
        page.screenshot(path=picture, full_page=True)
        browser.close()


def take_graph(graphite_url: str, picture: Path) -> None:
    """The ack of a vote."""
    graph = read_boards()["overview"].graphs[1]
    prefix = load().metrics.prefix
    asked = {
        "target": [target(expression, prefix, label) for label, expression in graph.lines.items()],
        "title": f"{graph.title} ({graph.unit})",
        "from": "-15min",
        "width": "600",
        "height": "260",
        "bgcolor": "white",
        "fgcolor": "black",
        "lineMode": "connected",
    }
    url = f"{graphite_url}/render?{urlencode(asked, doseq=True)}"
    with urllib.request.urlopen(url, timeout=20) as answer:  # always http  # nosec B310
        picture.write_bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main())
