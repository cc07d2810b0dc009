"""scripts/alerter: looks at every rule again and again, until SIGTERM.

Whatever is away, it goes on: what it can't read stays as it was, what it can't tell is told in the next round.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import signal
import sys
import time

import aiohttp

from models.runtime import logs
from models.runtime.settings import EX_CONFIG, SECTIONS, Settings, load_or_exit
from scripts.alerts.alarms import Alarms
from scripts.alerts.alertmanager import Alertmanager
from scripts.alerts.graphite import Graphite, GraphiteUnread
from scripts.alerts.rules import RulesError, read_rules

log = logging.getLogger("scripts.alerts")

UNUSED = SECTIONS.keys() - {"alerts", "log", "metrics", "secrets"}


class Alerter:
    """``round()`` looks once. ``session`` is for both ends."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        """:raises RulesError:"""
        self._rules = read_rules()
        self._asked = {name: rule for name, rule in self._rules.items() if not rule.own}
        self._graphite = Graphite(settings.metrics, settings.alerts.haste, session)
        self._alertmanager = Alertmanager(settings, self._rules, session)
        self._alarms = Alarms(settings.alerts.haste)
        self._read_at = time.monotonic()
        self._haste = settings.alerts.haste

    async def round(self) -> None:
        try:
            levels = await self._graphite.levels(self._asked)
            self._read_at = time.monotonic()
            for name, rule in self._asked.items():
                self._alarms.look(name, rule, levels[name], time.time())
        except GraphiteUnread as error:
            log.error("graphite_unread", extra={"error": str(error)})
        own = {"alerter alive": 1.0, "alerter unread_s": (time.monotonic() - self._read_at) * self._haste}
        for name, rule in self._rules.items():
            if rule.own:
                self._alarms.look(name, rule, {"": own[rule.expression]}, time.time())
        now = time.time()
        await self._alertmanager.tell(list(self._alarms.told(now)), now)


async def run(settings: Settings) -> None:
    """:raises RulesError:"""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stopped.set)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        alerter = Alerter(settings, session)
        log.info("alerter_started", extra={"interval_s": settings.alerts.interval_s})
        stopping = asyncio.create_task(stopped.wait(), name="stopping")
        while not stopped.is_set():
            due = loop.time() + settings.alerts.interval_s
            looking = asyncio.create_task(alerter.round(), name="round")
            await asyncio.wait([looking, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                looking.cancel()
            await asyncio.gather(looking, return_exceptions=stopped.is_set())
            await asyncio.wait([stopping], timeout=max(0.0, due - loop.time()))
    log.info("alerter_stopped")


def main() -> int:
    settings = load_or_exit(unused=UNUSED)
    missing = [
        key
        for key, value in {
            "metrics.graphite_url": settings.metrics.graphite_url,
            "alerts.alertmanager_url": settings.alerts.alertmanager_url,
        }.items()
        if not value
    ]
    if missing:
        print(f"settings: {', '.join(missing)}: the alerter needs it", file=sys.stderr)
        return EX_CONFIG
    logs.configure(settings.log, service="alerter", instance=platform.node(), environment=settings.environment)
    try:
        asyncio.run(run(settings))
    except RulesError as error:
        print(f"rules: {error}", file=sys.stderr)
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
