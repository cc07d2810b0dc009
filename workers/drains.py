"""Proof that everything which was in a command queue at a moment has been decided since."""

import time
from dataclasses import dataclass
from uuid import UUID

from dramatiq.common import dq_name

from models import drain_store
from models.drain_store import Statement
from workers.database_gate import DatabaseGate
from workers.queue_watch import TROUBLE, QueueLevels

_GIVEN_UP_S = 10.0
_LOOKS = 10
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class _Open:
    asked: int
    began_us: int
    consumers: dict[UUID, Statement]
    until: float  # time.monotonic()


class Drain:
    """Of one queue and its delayed commands; ``round`` is called until ``drained_us`` is late enough.

    The proof: at one moment RabbitMQ has no command that waits, and as many consumers as have told of themselves. So
    those hold all that is left. Afterwards each of them says that whatever it held is decided, and that it has neither
    given back nor sent again anything since. A consumer that hangs, has died or says nothing keeps the proof away until
    RabbitMQ has taken from it what it held.
    """

    def __init__(self, gate: DatabaseGate, levels: QueueLevels, queue: str) -> None:
        self._gate = gate
        self._levels = levels
        self._queue = queue
        self._open: _Open | None = None
        self.drained_us = 0  # by the database's clock: everything published before is decided

    def round(self) -> None:
        """One step. While RabbitMQ is away nothing is proven.

        :raises DatabaseUnavailable:
        """
        now_us, consumers = self._gate.call(lambda db: drain_store.read_consumers(db, self._queue))
        try:
            if self._open is not None:
                self._finish(self._open, consumers)
            if self._open is None and consumers and self._is_empty(len(consumers)):
                asked = self._gate.call(lambda db: drain_store.ask(db, self._queue))
                self._open = _Open(asked, now_us, consumers, time.monotonic() + _GIVEN_UP_S)
        except TROUBLE:
            self._open = None
            self._levels.close()

    def _finish(self, begun: _Open, consumers: dict[UUID, Statement]) -> None:
        unchanged = {one: said.returned for one, said in consumers.items()} == {
            one: said.returned for one, said in begun.consumers.items()
        }
        if not unchanged or time.monotonic() > begun.until:
            self._open = None
        elif all(said.drained >= begun.asked for said in consumers.values()) and self._are_all(len(consumers)):
            self._open = None
            self.drained_us = begun.began_us

    def _is_empty(self, consumers: int) -> bool:
        """At some moment. A queue that is kept up with is empty again and again."""
        for look in range(_LOOKS):
            if look:
                time.sleep(_PAUSE_S)
            if all(self._levels.of(queue) == (0, consumers) for queue in (self._queue, dq_name(self._queue))):
                return True
        return False

    def _are_all(self, consumers: int) -> bool:
        return self._levels.of(self._queue)[1] == consumers
