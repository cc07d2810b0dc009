"""Tasks with a name and an owner: the short ones that nobody waits for, and those that live as long as the node."""

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """Short tasks: logged when they fail, ended at shutdown."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def close(self, timeout_s: float) -> None:
        """Let them finish, then cancel what is left."""
        if self._running:
            _, pending = await asyncio.wait(tuple(self._running), timeout=timeout_s)
            for task in pending:
                task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed", extra={"task": task.get_name()}, exc_info=task.exception())


def keep_running(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that lives as long as the node. When it fails the node ends, drained, and the supervisor starts another:
    without it this one would only look alive.
    """

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("task_failed", extra={"task": name}, exc_info=task.exception())
            os.kill(os.getpid(), signal.SIGTERM)

    running = asyncio.create_task(work, name=name)
    running.add_done_callback(ended)
    return running
