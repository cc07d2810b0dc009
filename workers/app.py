"""The composition root that Dramatiq calls in its child process: ``workers.app:votes`` or ``workers.app:host``."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys

from models.runtime import collector, logs
from models.runtime.settings import load_or_exit
from workers.process import WorkerProcess

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def votes() -> None:
    """Make this process a worker for votes."""
    _start("votes")


def host() -> None:
    """Make this process a worker for hosts, members and audit."""
    _start("host")


def _start(role: str) -> None:
    _die_with_master()
    settings = load_or_exit(unused={"node", "security"})
    logs.configure(
        settings.log,
        service="votemill-worker",
        instance=f"{settings.worker.name}/{role}",
        environment=settings.environment,
    )
    # One reports every message that steps aside, the other each failed connection in seven lines with a traceback;
    # what matters of both is counted and logged by us.
    logging.getLogger("dramatiq.worker.WorkerThread").setLevel(logging.WARNING)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    WorkerProcess(settings, role)
    collector.calm()


def _die_with_master() -> None:
    """A master killed with -9 would leave this process working unseen, beside the one that is started in its place."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    master = multiprocessing.parent_process()
    if master is not None and os.getppid() != master.pid:
        os._exit(1)  # it died before we asked
