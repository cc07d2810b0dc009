"""What happens around every command."""

import time
from collections.abc import Callable
from typing import Any

from dramatiq.middleware import Interrupt, Middleware, Retries

from models.runtime.logs import correlation_id
from workers.errors import GiveBack, NeverValid, StepAside
from workers.metrics import WorkerMetrics, queue_label

DECIDED = (GiveBack, StepAside, NeverValid)


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
    """Correlation id into the logs; age and running time into the metrics."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def before_process_message(self, broker: Any, message: Any) -> None:
        correlation_id.set(str(message.options.get("correlation_id", "")))
        message.started_at = time.monotonic()
        age_ms = time.time() * 1000 - message.message_timestamp
        self._metrics.timing_ms(f"queues.{queue_label(message.queue_name)}.age_ms", age_ms)

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        run_ms = (time.monotonic() - message.started_at) * 1000
        self._metrics.timing_ms(f"queues.{queue_label(message.queue_name)}.run_ms", run_ms)
        correlation_id.set("")


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
