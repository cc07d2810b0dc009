"""``python -m scripts.scaling [--run-dir DIR] [--dry-run]``: has as many workers and nodes as their load asks for.

By Nomad, or with --run-dir the workers of a stack of scripts/up. Ends on SIGTERM or SIGINT, after the change in hand.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from models.runtime import logs
from models.runtime.live_settings import LiveSettings
from models.runtime.secrets.watch import SecretWatch
from models.runtime.settings import Settings, load_or_exit
from scripts.scaling.actuators import Actuator, NomadJobs
from scripts.scaling.figures import NodeFigures, QueueFigures
from scripts.scaling.metrics import ScalerMetrics
from scripts.scaling.scaler import Scaler
from workers.cache import open_redis
from workers.rooms import Rooms

log = logging.getLogger("scripts.scaling")

_BEAT_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/scaler", description=__doc__)
    parser.add_argument("--run-dir", help="scale the workers of this stack of scripts/up, and not by Nomad")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    options = parser.parse_args()
    settings = load_or_exit(unused={"database", "node", "worker", "security", "audit"})
    if options.dry_run:
        settings = msgspec.structs.replace(settings, scaler=msgspec.structs.replace(settings.scaler, dry_run=True))
    logs.configure(settings.log, service="votemill-scaler", instance="scaler", environment=settings.environment)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # seven lines for each failed connection; ours says it in one
    run(settings, options.run_dir)
    return 0


def run(settings: Settings, run_dir: str | None) -> None:
    """Until a signal comes."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    metrics = ScalerMetrics(settings.metrics)
    secrets = SecretWatch(settings, metrics)
    queues = QueueFigures(settings.broker)
    secrets.watch(lambda changed: queues.use(changed.broker))
    actuator = _actuator(settings, run_dir, secrets)
    client = open_redis(settings.redis)
    rooms = Rooms(client, settings.redis.room_ttl_s)
    nodes = NodeFigures(client, settings.room.node_timeout_s)
    scaler = Scaler(LiveSettings(settings), queues, nodes, rooms, actuator, metrics)
    heartbeat = Path(settings.worker.heartbeat_file) if settings.worker.heartbeat_file else None
    secrets.start()
    queues.start()
    log.info("scaler_started", extra={"by": run_dir or settings.nomad.url, "dry_run": settings.scaler.dry_run})
    due = time.monotonic()
    while not ending.wait(min(_BEAT_S, settings.scaler.interval_s)):
        if heartbeat is not None:
            heartbeat.touch()
        if time.monotonic() >= due:
            due = time.monotonic() + settings.scaler.interval_s
            scaler.round()
        metrics.flush()
    queues.close()
    secrets.close()
    metrics.close()
    log.info("scaler_stopped")


def _actuator(settings: Settings, run_dir: str | None, secrets: SecretWatch) -> Actuator:
    if run_dir is not None:
        # Only where there is a supervisor, which the image has none of.
        from scripts.scaling.local import StackWorkers
        from scripts.stack.run_folder import RunFolder

        return StackWorkers(RunFolder(run_dir))
    jobs = NomadJobs(settings.nomad)
    secrets.watch(lambda changed: jobs.use(changed.nomad))
    return jobs


if __name__ == "__main__":
    sys.exit(main())
