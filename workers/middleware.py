"""What happens around every command."""

import logging
import time
from collections.abc import Callable
from typing import Any

from dramatiq.middleware import Interrupt, Middleware, Retries

from models.runtime import correlation
from models.runtime.clock import now_us
from models.wire import names
from workers import delivery
from workers.delivery import Delivery
from workers.errors import GiveBack, NeverValid, StepAside
from workers.heartbeat import Waits
from workers.metrics import WorkerMetrics, queue_label

log = logging.getLogger(__name__)

DECIDED = (GiveBack, StepAside, NeverValid)

# What nodes send all the time by themselves: a line for each would say nothing.
_QUIET = {"note_node", "record_presence", "record_audit"}


class SafeRetries(Retries):
    """Retries that can't lose a message: when the retry can't be queued, the original goes back to its queue.

    The stock middleware's error is logged and the original acked. Errors that already say what is to become of the
    message are never retried.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        # Far below the broker's consumer time-out of 30 minutes.
        super().__init__(max_retries=5, min_backoff=500, max_backoff=30_000)
        self._metrics = metrics

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        if exception is None:
            return
        if isinstance(exception, (*DECIDED, Interrupt)):
            message.fail()
            return
        self._metrics.count("messages.retried")
        try:
            super().after_process_message(broker, message, result=result, exception=exception)
        except Exception as error:
            message.fail()
            message.stuff_exception(GiveBack(f"its retry could not be queued: {error!r}"))


class Context(Middleware):
    """What the command is part of, for whatever is logged, stored and sent on; how it went, for log and metrics."""

    def __init__(self, metrics: WorkerMetrics, waits: Waits) -> None:
        self._metrics = metrics
        self._waits = waits

    def before_process_message(self, broker: Any, message: Any) -> None:
        options = message.options
        correlation.begin(options.get("traceparent"), otherwise=message.message_id.replace("-", ""))
        tries = int(message.redelivered) + int(options.get("retries", 0))
        traced = {int(place): str(named) for place, named in options.get("traced", {}).items() if named}
        message.delivery = Delivery(traced, tries)
        delivery.begin(message.delivery)
        message.started_at = time.monotonic()
        age_ms = now_us() / 1000 - message.message_timestamp
        self._metrics.timing_ms(f"queues.{queue_label(message.queue_name)}.age_ms", age_ms)
        if not tries and message.queue_name != names.AUDIT_QUEUE:  # reports may wait, and a retry waits on purpose
            self._waits.note(age_ms / 1000)

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        took_ms = (time.monotonic() - message.started_at) * 1000
        self._metrics.timing_ms(f"queues.{queue_label(message.queue_name)}.run_ms", took_ms)
        self._note(message, took_ms, exception)
        correlation.end()

    @staticmethod
    def _note(message: Any, took_ms: float, exception: Any) -> None:
        level, outcome = _ended(message, exception)
        if exception is None and message.actor_name in _QUIET:
            level = logging.DEBUG
        if not log.isEnabledFor(level):
            return
        handled: Delivery = message.delivery
        fields = {
            "command": message.actor_name,
            "outcome": outcome,
            "published_ms_ago": round(now_us() / 1000 - message.message_timestamp),
            "taken_ms_ago": round((time.monotonic() - message.arrived_at) * 1000, 3),
            "began_ms_ago": round(took_ms, 3),
            "database_ms": round(handled.database_s * 1000, 3),
            "failed_tries": handled.failed_tries,
            **handled.told,
        }
        if handled.traced:
            fields["correlation_ids"] = list(handled.traced.values())
        log.log(level, "command_handled", extra=fields)


def _ended(message: Any, exception: BaseException | None) -> tuple[int, str]:
    """How, and how much that is worth telling. What steps aside does so again and again, and is counted."""
    if exception is None:
        return logging.INFO, "done"
    if isinstance(exception, StepAside):
        return logging.DEBUG, "stepped_aside"
    if isinstance(exception, GiveBack | Interrupt):
        return logging.INFO, "given_back"
    return logging.WARNING, "dead" if message.failed else "retried"


class Lifecycle(Middleware):
    """Starts this process's resources before the first message and stops them after the last."""

    def __init__(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        self._start = start
        self._stop = stop

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        broker.attach(worker)
        self._start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        # Whoever waits for the database gives its message back now; the threads are joined next.
        broker.stopping.set()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        self._stop()
