"""What this process holds of a command queue, told in the database as proof that the queue has been worked off."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid4

from models import drain_store
from workers.database_gate import DatabaseGate


class Consumer(Protocol):
    queue_name: str

    def look_up(self) -> "Future[int]":
        """The number of the last command that RabbitMQ had sent here before this call, or a later one."""

    def has_done(self, number: int) -> bool:
        """Every command up to it was read and is decided."""


@dataclass(slots=True)
class _Question:
    asked: int
    held: "list[tuple[Consumer, Future[int]]]"


@dataclass(slots=True)
class Holding:
    """Of one queue, its delayed commands included. From any thread.

    ``consumer_id`` is another one after each connection: what was held until then went back to the queue.
    """

    queue: str
    consumer_id: UUID = field(default_factory=uuid4)
    consumers: dict[str, Consumer] = field(default_factory=dict)
    returned: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connects(self, consumer: Consumer) -> None:
        with self._lock:
            self.consumers[consumer.queue_name] = consumer
            self.consumer_id = uuid4()

    def gives_back(self) -> None:
        """Before a command goes back, or is sent again: somebody, or this process itself, will hold it anew."""
        with self._lock:
            self.returned += 1


class Holdings:
    """States it every half second, and answers the coordinator's question when all that was held then is decided."""

    EVERY_S = 0.5

    def __init__(self, gate: DatabaseGate, holding: Holding) -> None:
        self._gate = gate
        self._holding = holding
        self._of: UUID | None = None
        self._drained = 0
        self._question: _Question | None = None

    def round(self) -> None:
        """:raises DatabaseUnavailable:"""
        holding = self._holding
        if self._of != holding.consumer_id:
            self._of, self._drained, self._question = holding.consumer_id, 0, None
        consumer_id = self._of
        question = self._question
        if question is not None and all(_answered(*one) for one in question.held):
            self._drained, self._question = question.asked, None
        said = drain_store.Statement(holding.returned, self._drained)
        if consumer_id != holding.consumer_id or not holding.consumers:
            return  # the connection was lost meanwhile
        asked = self._gate.call(lambda db: drain_store.state(db, consumer_id, holding.queue, said))
        if self._question is None and asked > self._drained:
            self._question = _Question(asked, [(one, one.look_up()) for one in list(holding.consumers.values())])


def _answered(consumer: Consumer, last: "Future[int]") -> bool:
    return last.done() and last.exception() is None and consumer.has_done(last.result())
