"""Collects what arrives within a few milliseconds into one confirmed message."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.wire import names
from models.wire.envelope import wrap
from socket_tier.amqp.publisher import Publisher
from socket_tier.refusals import NodeBusy, Refused

T = TypeVar("T")


class Batcher(Generic[T]):
    """Makes one command of many small things.

    ``make(items)`` builds the command. At most ``max_items`` to a command; an item waits at most ``max_wait_s`` for
    company; at most ``capacity`` items are held, unsent or unconfirmed.
    """

    def __init__(
        self,
        publisher: Publisher,
        make: Callable[[Sequence[T]], msgspec.Struct],
        *,
        max_items: int,
        max_wait_s: float,
        capacity: int,
    ) -> None:
        self._publisher = publisher
        self._make = make
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._capacity = capacity
        self._items: list[T] = []
        self._traced: dict[int, str] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.held = 0

    async def add(self, item: T) -> None:
        """Returning means that the item is durable at the broker.

        :raises NodeBusy: too many are held
        :raises BrokerUnavailable: not confirmed; safe to send again
        """
        if self.held >= self._capacity:
            raise NodeBusy()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self.held += 1
        self._traced[len(self._items)] = correlation_id.get()
        self._items.append(item)
        self._waiters.append(waiter)
        if len(self._items) >= self._max_items:
            self.flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait_s, self.flush)
        await waiter

    def flush(self) -> None:
        """Send what is held now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._items:
            return
        items, self._items = self._items, []
        traced, self._traced = self._traced, {}
        waiters, self._waiters = self._waiters, []
        queue, body = wrap(self._make(items), traced=traced, sent_us=now_us())
        try:
            confirmed = self._publisher.publish(names.COMMANDS_EXCHANGE, queue, body)
        except Refused as refusal:
            self._settle(waiters, refusal)
        else:
            confirmed.add_done_callback(lambda done: self._settle(waiters, done.exception()))

    def _settle(self, waiters: list[asyncio.Future[None]], error: BaseException | None) -> None:
        self.held -= len(waiters)
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
