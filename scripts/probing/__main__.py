"""scripts/probe: a synthetic voter. Every few seconds it lives through what a browser does and keeps a record of it.

All it needs stands in [probe] of settings.toml. It ends on SIGTERM, after it has closed its poll. Exit status: 0 ended,
64 wrong usage, 73 the record can't be written, 78 the settings can't be used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from models.runtime import logs
from models.runtime.settings import EX_CONFIG, SECTIONS, Settings, load_or_exit
from scripts.probing.metrics import ProbeMetrics
from scripts.probing.record import Record, RecordTaken
from scripts.probing.rounds import FAILED, LIMITED, OK, Round, Voting, as_line

log = logging.getLogger("probe")

EX_CANTCREAT = 73  # sysexits.h
_BEAT_S = 1.0


class Probe:
    """Rounds, one after the other, into record, metrics and log."""

    def __init__(self, settings: Settings, url: str, record: Record | None) -> None:
        self._settings = settings.probe
        self._voting = Voting(settings.probe, url)
        self._record = record
        self._metrics = ProbeMetrics(settings)
        self._heartbeat = Path(settings.worker.heartbeat_file) if settings.worker.heartbeat_file else None
        self._failing = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        beating = asyncio.create_task(self._beats(), name="beats")
        try:
            while True:
                next_at = loop.time() + self._settings.every_s
                found = await self._voting.round()
                self._tell(found)
                await asyncio.sleep(max(next_at - loop.time(), found.wait_s, 0))
                if beating.done():
                    beating.result()  # whatever has ended it ends the probe
        finally:
            beating.cancel()
            await self._voting.close()
            await asyncio.to_thread(self._metrics.flush)
            self._metrics.close()

    def _tell(self, found: Round) -> None:
        if found.outcome == FAILED:
            self._metrics.count(f"failed.{found.step}")
        else:
            self._metrics.count("ok" if found.outcome == OK else "limited")
        for step, took_ms in found.ms.items():
            self._metrics.timing_ms(f"{step}_ms", took_ms)
        self._log(found)
        try:
            if self._record is not None:
                self._record.add(as_line(self._settings.name, self._settings.every_s, found))
        except OSError as error:
            self._metrics.count("unwritten")
            log.warning("probe_unwritten", extra={"error": str(error)})

    def _log(self, found: Round) -> None:
        """What has changed: a service that is down is not news every few seconds."""
        failing = found.step if found.outcome != OK else ""
        if failing and failing != self._failing:
            event = "probe_limited" if found.outcome == LIMITED else "probe_failed"
            log.warning(event, extra={"step": found.step, "error": found.error})
        elif not failing and self._failing:
            log.info("probe_recovered", extra={"took_ms": found.took_ms})
        self._failing = failing

    async def _beats(self) -> None:
        while True:
            if self._heartbeat is not None:
                self._heartbeat.touch()
            await asyncio.to_thread(self._metrics.send, self._metrics.take())
            await asyncio.sleep(_BEAT_S)


async def serve(probe: Probe) -> None:
    """Run it until SIGTERM or SIGINT."""
    running = asyncio.create_task(probe.run(), name="probe")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


def problems(settings: Settings, url: str) -> Iterator[str]:
    """What keeps these settings from being a probe's: where to, and limits that would refuse it."""
    probe, limits = settings.probe, settings.limits
    if not url:
        yield "probe.url: must be where browsers reach the service, or node.public_url"
    if limits.unlimited:
        return
    if 2 * limits.votes_per_session_window_s > limits.votes_per_session * probe.every_s:
        yield "probe.every_s: too short for limits.votes_per_session, since each round votes twice"
    if probe.poll_s * limits.polls_per_address_a_day.per_s < 1:
        yield "probe.poll_s: too short for limits.polls_per_address_a_day"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/probe", description=__doc__)
    parser.add_argument("--url", help="where browsers reach the service (default: probe.url, or else node.public_url)")
    options = parser.parse_args()
    settings = load_or_exit(unused=SECTIONS.keys() - {"probe", "log", "metrics", "limits"})
    logs.configure(
        settings.log, service="votemill-probe", instance=settings.probe.name, environment=settings.environment
    )
    url = options.url or settings.probe.url or settings.node.public_url
    for problem in (wrong := list(problems(settings, url))):
        print(f"settings: {problem}", file=sys.stderr)
    if wrong:
        return EX_CONFIG
    try:
        file = Path(settings.probe.folder, f"{settings.probe.name}.jsonl") if settings.probe.folder else None
        record = Record(file, settings.probe.record_bytes) if file else None
    except (OSError, RecordTaken) as error:
        print(f"✗ {error}", file=sys.stderr)
        return EX_CANTCREAT
    log.info("probe_begins", extra={"url": url, "record": str(file)})
    try:
        asyncio.run(serve(Probe(settings, url, record)))
    finally:
        if record is not None:
            record.close()
    log.info("probe_ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
