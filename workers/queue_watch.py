"""Asks RabbitMQ how many commands wait and who takes them. Every host worker does: it costs little."""

import time

import pika
import pika.exceptions

from models.runtime.settings import BrokerSettings
from models.wire import names
from workers.connection import parameters
from workers.metrics import QUEUE_GAUGES, WorkerMetrics, queue_label
from workers.periodic import Periodic

_EVERY_S = 2.0
TROUBLE = (pika.exceptions.AMQPError, OSError, AssertionError)


class QueueLevels:
    """Asks RabbitMQ about queues, on a connection of its own. Not for several threads."""

    def __init__(self, settings: BrokerSettings, name: str) -> None:
        self._parameters = parameters(settings, name)
        self._connection: pika.BlockingConnection | None = None

    def of(self, queue: str) -> tuple[int, int]:
        """Messages that are ready, and consumers, of one moment, of a queue that the outbox has declared.

        :raises Exception: one of ``TROUBLE``; close, and try again later
        """
        if self._connection is None:
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = self._connection.channel()
        method = self._channel.queue_declare(queue, passive=True).method
        return method.message_count, method.consumer_count

    def close(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except TROUBLE:
            pass  # it is gone, which is what was asked for


class QueueWatch:
    """Sets the levels of all queues, on a thread of its own; while RabbitMQ is away there are none."""

    def __init__(self, settings: BrokerSettings, metrics: WorkerMetrics, name: str) -> None:
        self._levels = QueueLevels(settings, f"{name} queue watch")
        self._metrics = metrics
        self._empty_at: dict[str, float] = {}
        self._looking = Periodic("queue-watch", _EVERY_S, self._round, metrics)
        self.start = self._looking.start

    def close(self) -> None:
        self._looking.close()
        self._levels.close()

    def _round(self) -> None:
        try:
            for queue in names.COMMAND_QUEUES:
                self._look(queue)
        except TROUBLE:
            self._metrics.count("queues.not_read")
            for gauge in QUEUE_GAUGES:
                self._metrics.gauge(gauge, None, everywhere=True)
            self._levels.close()

    def _look(self, queue: str) -> None:
        waiting, consumers = self._levels.of(queue)
        dead, _ = self._levels.of(names.dead_letter_queue(queue))
        now = time.monotonic()
        if waiting == 0 or queue not in self._empty_at:
            self._empty_at[queue] = now
        for name, level in {
            "messages": waiting,
            "consumers": consumers,
            "backlog_s": now - self._empty_at[queue],
            "dead": dead,
        }.items():
            self._metrics.gauge(f"queues.{queue_label(queue)}.{name}", level, everywhere=True)
