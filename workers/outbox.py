"""What this process publishes by itself: one AMQP connection, owned by one thread."""

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
import pika.exceptions

from models.runtime import tls
from models.runtime.settings import BrokerSettings
from workers import topology
from workers.connection import CONNECT_DEADLINE_S, parameters
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)

_IDLE_S = 0.2  # an idle connection is serviced this often, so that heartbeats flow
_PROVE_EVERY_S = 1.0
_PROOF_S = 2.0  # with the former, a connection that is half dead is given up after 3 s
_UNPROVEN_MOST = 10_000
_TROUBLE = (pika.exceptions.AMQPError, OSError, AssertionError)


class Unconfirmed(Exception):
    """RabbitMQ did not confirm the message in time. It may have arrived all the same."""


class Unroutable(Exception):
    """Nobody has the queue that the message was for."""


@dataclass(slots=True, eq=False)
class _Letter:
    exchange: str
    routing_key: str
    body: bytes
    expires_at: float  # time.monotonic()
    headers: dict[str, Any] | None = None
    settled: Future[None] | None = None  # None: nobody waits for a confirm


class Outbox:
    """Publishes what other threads hand in. Bounded; reconnects by itself; closing sends what is still held.

    Once a second the broker has to answer: that proves the connection, and that it has what was sent before. What was
    sent since the last proof is sent again over the next connection, so it may arrive twice.
    """

    def __init__(self, settings: BrokerSettings, metrics: WorkerMetrics, name: str, *, capacity: int = 10_000) -> None:
        self._name = f"{name} outbox"
        self.on_failed_login: Callable[[], None] = lambda: None
        self.use(settings)
        self._reconnect_max_s = settings.reconnect_max_s
        self._timeout_s = settings.publish_timeout_s
        self._metrics = metrics
        self._letters: queue.Queue[_Letter] = queue.Queue(capacity)
        self._closing = threading.Event()
        self._connection: pika.BlockingConnection | None = None
        self._plain: Any = None
        self._confirming: Any = None
        self._pause_s = 0.1
        self._proven_at = 0.0
        self._unproven: deque[_Letter] = deque(maxlen=_UNPROVEN_MOST)  # nobody waits for their confirms
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def use(self, settings: BrokerSettings) -> None:
        """Connect there, or as another account, from the next time on; a connection that is open stays.

        :raises ValueError: an address can't be understood; nothing is changed
        """
        self._parameters = parameters(settings, self._name)

    @property
    def waiting(self) -> int:
        return self._letters.qsize()

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 3) -> None:
        """Send what is held, for at most ``timeout_s`` seconds, then disconnect."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def send(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish soon, without a promise: dropped and counted when the outbox is full or RabbitMQ stays away."""
        self._put(_Letter(exchange, routing_key, body, time.monotonic() + self._timeout_s))

    def send_confirmed(
        self, exchange: str, routing_key: str, body: bytes, headers: dict[str, Any] | None = None
    ) -> None:
        """Publish, and return when RabbitMQ has it. Waits at most twice ``publish_timeout_s`` seconds.

        A message to the default exchange is mandatory; one to a fan-out may reach nobody.

        :raises Unconfirmed: safe to send again
        :raises Unroutable: there is no such queue
        """
        settled: Future[None] = Future()
        letter = _Letter(exchange, routing_key, body, time.monotonic() + self._timeout_s, headers, settled)
        if not self._put(letter):
            raise Unconfirmed("the outbox is full")
        try:
            settled.result(self._timeout_s * 2)
        except TimeoutError:
            self._metrics.count("notices.unconfirmed")
            raise Unconfirmed("no confirm in time") from None

    def _put(self, letter: _Letter) -> bool:
        try:
            self._letters.put_nowait(letter)
        except queue.Full:
            self._metrics.count("notices.dropped")
            return False
        return True

    def _run(self) -> None:
        while True:
            try:
                letter = self._letters.get(timeout=_IDLE_S)
            except queue.Empty:
                if self._closing.is_set():
                    break
                self._service()
            else:
                self._deliver_safely(letter)
        self._disconnect()

    def _deliver_safely(self, letter: _Letter) -> None:
        """Nothing that goes wrong with one letter may end the thread that sends all of them."""
        try:
            self._deliver(letter)
        except Exception as error:
            log.exception("outbox_failed")
            self._disconnect()
            self._settle(letter, Unconfirmed(repr(error)))

    def _deliver(self, letter: _Letter) -> None:
        """Publish one letter, over as many connections as it takes, until it expires."""
        while True:
            try:
                self._publish(letter)
                self._pause_s = 0.1
                self._settle(letter, None)
                return
            except pika.exceptions.UnroutableError:
                self._settle(letter, Unroutable(letter.routing_key))
                return
            except pika.exceptions.NackError as error:
                self._settle(letter, Unconfirmed(repr(error)))
                return
            except _TROUBLE as error:
                log.warning("outbox_trouble", extra={"error": tls.explained("broker", error)})
                self._disconnect()
            if time.monotonic() >= letter.expires_at or self._closing.is_set():
                self._settle(letter, Unconfirmed("RabbitMQ is away"))
                return
            self._closing.wait(self._pause_s * random.uniform(0.5, 1.0))
            self._pause_s = min(self._pause_s * 2, self._reconnect_max_s)

    def _publish(self, letter: _Letter) -> None:
        self._connect()
        if letter.settled is not None:
            mandatory = letter.exchange == ""
            with self._answered_within(self._timeout_s):
                self._put_on(self._confirming, letter, delivery_mode=2, mandatory=mandatory)
        else:
            self._put_on(self._plain, letter, delivery_mode=1)
            self._unproven.append(letter)
        self._metrics.count("notices.sent")
        if time.monotonic() - self._proven_at > _PROVE_EVERY_S:
            self._service()

    @staticmethod
    def _put_on(channel: Any, letter: _Letter, delivery_mode: int, mandatory: bool = False) -> None:
        properties = pika.BasicProperties(
            delivery_mode=delivery_mode, content_type="application/json", headers=letter.headers
        )
        channel.basic_publish(letter.exchange, letter.routing_key, letter.body, properties, mandatory=mandatory)

    def _connect(self) -> None:
        if self._connection is not None and self._connection.is_open:
            return
        try:
            self._connection = pika.BlockingConnection(self._parameters)
        except pika.exceptions.AMQPError:
            self.on_failed_login()
            raise
        with self._answered_within(CONNECT_DEADLINE_S):
            self._plain = self._connection.channel()
            topology.declare(self._plain)
            self._confirming = self._connection.channel()
            self._confirming.confirm_delivery()
        self._proven_at = time.monotonic()
        for letter in self._unproven:
            # Twice its time: a confirm that never came may have taken all of it.
            if letter.expires_at + self._timeout_s > time.monotonic():
                self._put_on(self._plain, letter, delivery_mode=1)

    @contextmanager
    def _answered_within(self, wait_s: float) -> Iterator[None]:
        """End the connection when the broker doesn't answer what is asked inside: without this a call on a connection
        that is half dead would wait for two heartbeats."""
        connection: Any = self._connection
        impl = connection._impl
        give_up = partial(impl._terminate_stream, pika.exceptions.StreamLostError("no answer"))
        timer = impl._adapter_call_later(wait_s, give_up)
        try:
            yield
        finally:
            impl._adapter_remove_timeout(timer)

    def _service(self) -> None:
        try:
            if self._connection is not None:
                self._connection.process_data_events(0)
                if time.monotonic() - self._proven_at > _PROVE_EVERY_S:
                    with self._answered_within(_PROOF_S):
                        self._plain.basic_qos()  # changes nothing, and is answered in its turn
                    self._unproven.clear()
                    self._proven_at = time.monotonic()
        except Exception as error:
            log.warning("outbox_trouble", extra={"error": repr(error)}, exc_info=not isinstance(error, _TROUBLE))
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except Exception as error:
            # It is gone, which is what was asked for.
            if not isinstance(error, _TROUBLE):
                log.exception("outbox_failed")

    def _settle(self, letter: _Letter, error: Exception | None) -> None:
        if letter.settled is None:
            if error is not None:
                self._metrics.count("notices.dropped")
        elif not letter.settled.done():
            if error is None:
                letter.settled.set_result(None)
            else:
                letter.settled.set_exception(error)
