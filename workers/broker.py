"""Dramatiq's RabbitMQ broker, changed where the stock one can lose or delay a command.

- Queues: quorum for commands and dead letters, classic for delays; only the queue type as an argument.
- A message that fails is published to ``<queue>.dead`` with a confirm and acked after that; Dramatiq's own dead-letter
  queue, which forgets after seven days, is not used. What could not be published goes back to its queue.
- ``GiveBack`` returns a message unharmed; ``StepAside`` keeps it here, or in the delay queue, and lets others pass.
- A message is acked on the channel that delivered it or not at all. The stock consumer reuses the number on the new
  channel after a reconnect, where it belongs to another message.
"""

import logging
import queue
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

import dramatiq
import pika
import pika.exceptions
from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer, _RabbitmqMessage
from dramatiq.common import dq_name, q_name
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Interrupt, Middleware
from dramatiq.worker import _WorkQueueItem

from models.runtime.clock import now_us
from models.runtime.settings import BrokerSettings, Settings
from models.wire import names
from workers import topology
from workers.connection import parameters
from workers.dead_letters import DeadLetters
from workers.delivery import Delivery
from workers.errors import GiveBack, NeverValid, StepAside
from workers.holdings import Holding
from workers.metrics import WorkerMetrics
from workers.outbox import Unconfirmed, Unroutable

log = logging.getLogger(__name__)

_DELAYED_PREFETCH = 100
_TROUBLE = (pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError, AssertionError)


class CommandMessage(_RabbitmqMessage):
    """One delivery. It remembers its consumer, its undecoded body and when it arrived (``time.monotonic()``)."""

    def __init__(self, consumer: "CommandConsumer", tag: int, redelivered: bool, body: bytes) -> None:
        super().__init__(redelivered, tag, dramatiq.Message.decode(body))
        self.consumer = consumer
        self.body = body
        self.redelivered = redelivered
        self.arrived_at = time.monotonic()
        self.started_at = 0.0
        self.delivery = Delivery()


class CommandBroker(RabbitmqBroker):
    """Delivers commands to actors, and every command to exactly one end: acked, given back or dead-lettered.

    Of several with different priorities the highest takes all it has room for in its prefetch, the next what is left.
    """

    def __init__(
        self,
        settings: Settings,
        middleware: list[Middleware],
        dead_letters: DeadLetters,
        metrics: WorkerMetrics,
        prefetch: int,
        priority: int | None = None,
    ) -> None:
        super().__init__(confirm_delivery=True, middleware=middleware)
        # Dramatiq's delays end by the wall clock of whoever takes them: by one a day behind they would last a day.
        for module in (dramatiq.worker, dramatiq.brokers.rabbitmq):
            setattr(module, "current_millis", lambda: now_us() // 1000)  # noqa: B010
        self._name = f"{settings.worker.name} consumer"
        self.use(settings.broker)
        self.dead_letters = dead_letters
        self.metrics = metrics
        self.stopping = threading.Event()
        self.hold_s = settings.worker.outage_hold_s
        self._prefetch = prefetch
        self.consumer_arguments = None if priority is None else {"x-priority": priority}
        self._work: queue.PriorityQueue[_WorkQueueItem] | None = None
        self._holdings: dict[str, Holding] = {}

    def holding(self, queue_name: str) -> Holding:
        """What this process holds of a command queue."""
        return self._holdings.setdefault(q_name(queue_name), Holding(q_name(queue_name)))

    def enqueue(self, message: dramatiq.Message, *, delay: int | None = None) -> dramatiq.Message:
        """Put a command that is held here into its queue once more, or into the queue of delayed ones."""
        self.holding(message.queue_name).gives_back()
        return super().enqueue(message, delay=delay)

    def use(self, settings: BrokerSettings) -> None:
        """Connect there, or as another account, from the next time on; connections that are open stay.

        :raises ValueError: an address can't be understood; nothing is changed
        """
        self.parameters = parameters(settings, self._name)

    def attach(self, worker: dramatiq.Worker) -> None:
        """Know the worker's queue, for messages that step aside."""
        self._work = worker.work_queue

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "CommandConsumer":
        """Prefetch comes from the settings: what is prefetched doesn't count against the queue's limit."""
        prefetch = self._prefetch if queue_name == q_name(queue_name) else _DELAYED_PREFETCH
        return CommandConsumer(self, queue_name, prefetch, timeout, self.consumer_arguments)

    def put_back(self, message: CommandMessage) -> None:
        """Behind everything of the same priority that this worker holds."""
        assert self._work is not None
        self._work.put(_WorkQueueItem(self.get_actor(message.actor_name).priority, message))

    def _declare_queue(self, queue_name: str) -> Any:
        return self.channel.queue_declare(queue_name, durable=True, arguments=topology.QUORUM)

    def _declare_dq_queue(self, queue_name: str) -> Any:
        return self.channel.queue_declare(dq_name(queue_name), durable=True, arguments=topology.CLASSIC)

    def _declare_xq_queue(self, queue_name: str) -> Any:
        topology.declare_queue(self.channel, queue_name)
        return self.channel.queue_declare(names.dead_letter_queue(queue_name), durable=True, arguments=topology.QUORUM)


class CommandConsumer(_RabbitmqConsumer):
    """Takes messages from one queue on a connection of its own."""

    broker: CommandBroker

    def __init__(
        self, broker: CommandBroker, queue_name: str, prefetch: int, timeout: int, arguments: dict[str, int] | None
    ) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self.logger = log
        self.known_tags: set[int] = set()
        self._read = 0  # the last delivery tag
        self._prefetch = prefetch
        self._holding = broker.holding(queue_name)
        try:
            self.connection = pika.BlockingConnection(broker.parameters)
        except (*_TROUBLE, OSError) as error:
            raise ConnectionClosed(error) from None
        try:
            self.channel = self.connection.channel()
            # Before the first message, every time: a broker that was reset gets its queues back.
            topology.declare(self.channel)
            topology.declare_queue(self.channel, q_name(queue_name))
            self.channel.basic_qos(prefetch_count=prefetch)
            # With a connection on which it can be asked, and before anything can come.
            self._holding.connects(self)
            self.iterator = self.channel.consume(queue_name, arguments=arguments, inactivity_timeout=timeout / 1000)
        except (*_TROUBLE, OSError) as error:
            if self.connection.is_open:
                self.connection.close()  # a queue of another kind, for example: tried again and again, never piled up
            raise ConnectionClosed(error) from None

    def __next__(self) -> CommandMessage | None:
        try:
            method, _properties, body = next(self.iterator)
        except (*_TROUBLE, OSError) as error:
            raise ConnectionClosed(error) from None
        if method is None:
            return None
        self.known_tags.add(method.delivery_tag)
        self._read = method.delivery_tag
        try:
            message = CommandMessage(self, method.delivery_tag, method.redelivered, body)
        except dramatiq.DecodeError as error:
            self._bury(method.delivery_tag, body, "undecodable", error.__cause__ or error)
            return None
        if message.queue_name != self.queue_name:
            # Dramatiq would look for that queue's consumer and lose the thread over it.
            self._bury(method.delivery_tag, body, "wrong_queue", f"says {message.queue_name}")
            return None
        return message

    def look_up(self) -> "Future[int]":
        """A round trip on the channel: RabbitMQ's answer comes behind whatever it has sent before."""
        last: Future[int] = Future()

        def ask() -> None:
            # In the consuming thread, which must not wait here: so without the blocking channel.
            self.channel._impl.basic_qos(prefetch_count=self._prefetch, callback=lambda _: last.set_result(unread()))

        def unread() -> int:
            consuming = self.channel._queue_consumer_generator
            pending = consuming.pending_events if consuming is not None else ()
            return max((event.method.delivery_tag for event in pending), default=self._read)

        try:
            self.connection.add_callback_threadsafe(ask)
        except pika.exceptions.AMQPError as error:
            last.set_exception(error)
        return last

    def has_done(self, number: int) -> bool:
        return self._read >= number and all(tag > number for tag in tuple(self.known_tags))

    def ack(self, message: Any) -> None:
        if self._owns(message):
            self._ack(message._tag)
            self.broker.metrics.count("messages.done")

    def nack(self, message: Any) -> None:
        """End a failed message as its error asks for. Called by the thread that ran it."""
        if not self._owns(message):
            return
        error = message._exception
        if isinstance(error, StepAside):
            self._step_aside(message, error)
        elif isinstance(error, GiveBack | Interrupt):
            self._give_back(message._tag)
        else:
            reason = error.reason if isinstance(error, NeverValid) else "failed"
            self._bury(message._tag, message.body, reason, error)

    def _owns(self, message: CommandMessage) -> bool:
        if message.consumer is self and message._tag in self.known_tags:
            return True
        # Its channel is gone, so RabbitMQ delivers it again.
        self.broker.metrics.count("messages.stale_acks")
        return False

    def _step_aside(self, message: CommandMessage, error: StepAside) -> None:
        if self.broker.stopping.is_set() or time.monotonic() - message.arrived_at > self.broker.hold_s:
            self._give_back(message._tag)
            return
        if error.park_s is not None and self._park(message, error.park_s):
            return
        self.broker.metrics.count("messages.stepped_aside")
        # The pause is this thread's: with nothing else to do it must not spin.
        self.broker.stopping.wait(error.pause_s)
        message.failed = False
        self.broker.put_back(message)

    def _park(self, message: CommandMessage, for_s: float) -> bool:
        """Into the delay queue, confirmed, then acked here. False when RabbitMQ did not take it."""
        try:
            self.broker.enqueue(message._message, delay=round(for_s * 1000))
        except Exception as error:
            log.warning("command_not_parked", extra={"queue": self.queue_name, "error": repr(error)})
            return False
        self.broker.metrics.count("messages.parked")
        self._ack(message._tag)
        return True

    def _bury(self, tag: int, body: bytes, reason: str, error: object) -> None:
        try:
            self.broker.dead_letters.bury(q_name(self.queue_name), body, reason, error)
        except (Unconfirmed, Unroutable) as trouble:
            log.error("dead_letter_unconfirmed", extra={"queue": self.queue_name, "error": repr(trouble)})
            self.broker.stopping.wait(1)  # it comes again at once
            self._give_back(tag)
        else:
            self._ack(tag)

    def _ack(self, tag: int) -> None:
        self._settle(tag, partial(self.channel.basic_ack, tag))

    def _give_back(self, tag: int) -> None:
        self.broker.metrics.count("messages.given_back")
        self._holding.gives_back()
        self._settle(tag, partial(self.channel.basic_nack, tag, requeue=True))

    def _settle(self, tag: int, settle: Any) -> None:
        self.known_tags.discard(tag)
        try:
            self.connection.add_callback_threadsafe(settle)
        except pika.exceptions.AMQPError:
            # Closed meanwhile: RabbitMQ delivers the message again, and applying it again is harmless.
            self.broker.metrics.count("messages.stale_acks")
