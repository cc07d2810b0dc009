"""Commands that can never be applied, kept with their reason until a person decides. Nothing here expires."""

import logging

from models.runtime.clock import now_us
from models.wire import names
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox

log = logging.getLogger(__name__)

_ERROR_CHARACTERS = 500


class DeadLetters:
    """Publishes to ``<queue>.dead``. The body stays as it came; headers ``reason``, ``error``, ``queue``, ``at_us``."""

    def __init__(self, outbox: Outbox, metrics: WorkerMetrics) -> None:
        self._outbox = outbox
        self._metrics = metrics

    def bury(self, queue: str, body: bytes, reason: str, error: object) -> None:
        """Returning means that RabbitMQ has the dead letter on disk.

        :raises Unconfirmed: it is not safe; keep the message and try again
        :raises Unroutable: likewise
        """
        headers = {"reason": reason, "error": str(error)[:_ERROR_CHARACTERS], "queue": queue, "at_us": now_us()}
        self._outbox.send_confirmed("", names.dead_letter_queue(queue), body, headers)
        self._metrics.count("messages.dead")
        log.error("command_dead_lettered", extra={"queue": queue, "reason": reason, "error": headers["error"]})
