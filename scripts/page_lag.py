"""Three pages in Chromium while simulated voters vote: long tasks in the pages, and how old the totals are
that they show.

A page's totals are as old as the time since the database first had a newer version than the one shown. Ends with 1 when
a task took longer than 100 ms, or totals were older than one tick and 300 ms.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from playwright.sync_api import Page, sync_playwright

from models.runtime.settings import load
from scripts.chromium import chromium_path
from scripts.loadtest import rest
from scripts.loadtest.__main__ import read_env_file
from scripts.loadtest.fleet import Fleet, fitting_processes, seat_voters

_LONGEST_TASK_MS = 100
_GRACE_S = 0.3
_SAMPLE_S = 0.01
_WARM_UP_S = 3.0
_OPTIONS = ["Tea", "Coffee", "Water", "Milk"]
_WATCH = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => {
    const tasks = list.getEntries().map((task) => [performance.timeOrigin + task.startTime, task.duration]);
    window.longTasks.push(...tasks);
  }).observe({ type: "longtask", buffered: true });
}"""
_RECORD = """(id) => {
  const shown = document.querySelector(`[data-testid=${id}]`);
  window.versions = [];
  new MutationObserver(() => window.versions.push([Date.now(), Number(shown.dataset.version)]))
    .observe(shown, { attributes: true, attributeFilter: ["data-version"] });
}"""


@dataclass
class Database:
    """When each version of one poll was first seen in PostgreSQL: seconds since the epoch, and the versions."""

    dsn: str
    room: str
    at_s: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not self.over.wait(_SAMPLE_S):
                cursor.execute("SELECT version FROM polls WHERE room_code = %s", (self.room,))
                row = cursor.fetchone()
                assert row is not None, "the poll is gone"
                version = int(row[0])
                if not self.versions or version > self.versions[-1]:
                    self.at_s.append(time.time())
                    self.versions.append(version)
        connection.close()

    def age_s(self, version: float, at_s: float) -> float:
        """How long, at that moment, the database has had something newer than this version."""
        newer = bisect.bisect_right(self.versions, version)
        return max(0.0, at_s - self.at_s[newer]) if newer < len(self.at_s) else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/page-lag", description=__doc__)
    parser.add_argument("--voters", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=1000, help="votes a second over all (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path(".run"))
    wanted = parser.parse_args()
    env = read_env_file(wanted.run_dir / "env")
    if not {"BASE_URL", "DATABASE_URL"} <= env.keys():
        print("✗ nothing runs: scripts/up --unlimited --detach first", file=sys.stderr)
        return 2
    base = rest.parse_base(env["BASE_URL"])
    room = rest.open_poll(base, "What do you drink?", _OPTIONS)
    database = Database(env["DATABASE_URL"], room.code)
    watcher = threading.Thread(target=database.watch, name="database", daemon=True)
    seats = seat_voters(wanted.voters, [(room.code, room.options)], [(base.host, base.port)])
    processes = fitting_processes(wanted.voters, wanted.rate)
    with (
        sync_playwright() as driver,
        Fleet(seats, secrets.token_hex(4), wanted.rate, processes, 300 + wanted.seconds) as fleet,
    ):
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"])

        def opened(path: str) -> Page:
            page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
            page.add_init_script(f"({_WATCH})()")
            page.goto(base.url + path)
            return page

        fleet.gather(30 + wanted.voters / 50)
        watcher.start()
        pages = {
            "host": (opened(f"/host/{room.code}#{room.host_token}"), "bars"),
            "screen": (opened(f"/screen/{room.code}"), "bars"),
            "participant": (opened(f"/j/{room.code}"), "options"),
        }
        phone = pages["participant"][0]
        phone.get_by_test_id("nickname").fill("Ada")
        phone.get_by_test_id("join-button").click()
        phone.get_by_test_id("option-0").click()
        for page, part in pages.values():
            page.locator(f"[data-testid={part}][data-version]").wait_for()
            page.evaluate(_RECORD, part)
        fleet.vote(_WARM_UP_S + wanted.seconds)
        fleet.watch(_WARM_UP_S)
        from_s = time.time()
        fleet.watch(wanted.seconds - 1)
        until_s = time.time()
        seen = {name: (page.evaluate("versions"), page.evaluate("longTasks")) for name, (page, _) in pages.items()}
        fleet.quiesce(30)
        database.over.set()
        watcher.join(5)
        browser.close()
    rest.change_state(base, room, "closed")
    room_settings = load().room
    tick_s = max(room_settings.tick_s, room_settings.tick_per_member_s * wanted.voters)
    return report(seen, database, from_s, until_s, tick_s + _GRACE_S)


def report(
    seen: dict[str, tuple[list[list[float]], list[list[float]]]],
    database: Database,
    from_s: float,
    until_s: float,
    oldest_s: float,
) -> int:
    """Print each page's figures; whether one was outside the limits."""
    failed = False
    print(f"allowed: totals {oldest_s * 1000:.0f} ms old, tasks of {_LONGEST_TASK_MS} ms")
    for name, (versions, tasks) in seen.items():
        during = [(at_ms / 1000, version) for at_ms, version in versions if from_s <= at_ms / 1000 <= until_s]
        # Totals are oldest just before the next ones replace them.
        ages = sorted(database.age_s(version, next_s) for (_, version), (next_s, _) in itertools.pairwise(during))
        longest_ms = max((took for at_ms, took in tasks if from_s <= at_ms / 1000 <= until_s), default=0)
        if not ages:
            print(f"✗ {name}: no totals arrived")
            failed = True
            continue
        p99 = ages[min(len(ages) - 1, int(len(ages) * 0.99))]
        bad = ages[-1] > oldest_s or longest_ms > _LONGEST_TASK_MS
        failed = failed or bad
        print(
            f"{'✗' if bad else '✓'} {name}: {len(ages)} updates, totals at most {ages[-1] * 1000:.0f} ms old (median "
            f"{ages[len(ages) // 2] * 1000:.0f}, p99 {p99 * 1000:.0f}), longest task {longest_ms:.0f} ms"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
