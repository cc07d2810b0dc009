"""Many threads' work in one transaction."""

import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.database import DatabaseUnavailable
from workers.errors import GiveBack

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_PAUSE_S = 0.05  # after the first failure; doubled up to _PAUSE_MAX_S, jittered
_PAUSE_MAX_S = 0.5
_CAPACITY = 1024  # far above the number of threads that can wait


@dataclass(slots=True, eq=False)
class _Held(Generic[T, R]):
    item: T
    weight: int
    expires_at: float  # time.monotonic()
    result: "Future[R]"


class GroupCommit(Generic[T, R]):
    """One thread that stores what other threads hand in, merged up to ``most`` by weight.

    The first item after a rest is stored at once. Under load transactions begin at least ``linger_s`` seconds apart, so
    that more is merged into each; ``callers`` items, as many as there are threads to bring one, never wait for more.
    ``store(items)`` runs one transaction and returns one result per item. While it raises ``DatabaseUnavailable`` the
    items are held, for at most ``hold_s`` seconds each, and stored together when the database is back; ``hold_s`` 0
    passes the error on at once. Any other error is narrowed down to the items that cause it; the others are stored.
    """

    def __init__(
        self,
        name: str,
        store: Callable[[Sequence[T]], Sequence[R]],
        *,
        weigh: Callable[[T], int],
        most: int,
        hold_s: float,
        stopping: threading.Event,
        on_waiting: Callable[[int], None] = lambda weight: None,
        linger_s: float = 0.0,
        callers: int = _CAPACITY,
    ) -> None:
        self._store = store
        self._weigh = weigh
        self._most = most
        self._linger_s = linger_s
        self._callers = callers
        self._began_at = -math.inf  # the last transaction; time.monotonic()
        self._hold_s = hold_s
        self._stopping = stopping
        self._on_waiting = on_waiting
        self._arrived: queue.Queue[_Held[T, R]] = queue.Queue(_CAPACITY)
        self._next: _Held[T, R] | None = None  # did not fit into the last transaction
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 5) -> None:
        """Stop; whoever still waits is answered with ``GiveBack``."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def submit(self, item: T) -> R:
        """Returning means committed.

        :raises GiveBack: the database stayed away for ``hold_s``, or this worker stops; it may be committed even so
        :raises DatabaseUnavailable: only with ``hold_s`` 0
        :raises Exception: what ``store`` says about this item alone
        """
        if self._closed.is_set():
            raise GiveBack("this worker stops")
        held = _Held[T, R](item, self._weigh(item), time.monotonic() + self._hold_s, Future())
        try:
            self._arrived.put_nowait(held)
        except queue.Full:
            raise GiveBack("too many wait already") from None
        # The thread above answers everybody in time; this deadline is for the case that it died.
        try:
            return held.result.result(self._hold_s + 60)
        except TimeoutError:
            raise GiveBack("the flusher did not answer") from None

    def _run(self) -> None:
        while not self._closed.is_set():
            batch = self._take()
            if batch:
                self._settle(batch)
        for held in self._drained():
            held.result.set_exception(GiveBack("this worker stops"))

    def _take(self) -> list[_Held[T, R]]:
        """What is waiting, after waiting up to 0.2 s for the first and lingering for more."""
        first, self._next = self._next, None
        if first is None:
            try:
                first = self._arrived.get(timeout=0.2)
            except queue.Empty:
                return []
        batch, weight = [first], first.weight
        begins_at = self._began_at + self._linger_s
        while len(batch) < self._callers:
            wait_s = begins_at - time.monotonic()
            try:
                held = self._arrived.get(timeout=wait_s) if wait_s > 0 else self._arrived.get_nowait()
            except queue.Empty:
                break
            if weight + held.weight > self._most:
                self._next = held
                break
            batch.append(held)
            weight += held.weight
        self._began_at = time.monotonic()
        return batch

    def _settle(self, batch: list[_Held[T, R]]) -> None:
        """Store a batch, however long the outage; nothing else is taken meanwhile."""
        pause_s = _PAUSE_S
        while batch:
            self._on_waiting(sum(held.weight for held in batch))
            try:
                self._store_narrowing(batch)
                break
            except DatabaseUnavailable as error:
                batch = self._still_waiting(batch, error)
            except Exception:
                # A bug of ours: the threads must get an answer, and this one must live.
                log.exception("group_commit_failed")
                for held in batch:
                    if not held.result.done():
                        held.result.set_exception(GiveBack("storing failed unexpectedly"))
                break
            self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        self._on_waiting(0)

    def _store_narrowing(self, batch: list[_Held[T, R]]) -> None:
        try:
            results = self._store([held.item for held in batch])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            middle = len(batch) // 2
            self._store_narrowing(batch[:middle])
            self._store_narrowing(batch[middle:])
        else:
            for held, result in zip(batch, results, strict=True):
                held.result.set_result(result)

    def _still_waiting(self, batch: list[_Held[T, R]], error: DatabaseUnavailable) -> list[_Held[T, R]]:
        waiting = []
        for held in batch:
            if held.result.done():
                continue
            if self._hold_s == 0:
                held.result.set_exception(error)
            elif self._stopping.is_set() or time.monotonic() >= held.expires_at:
                held.result.set_exception(GiveBack(f"not stored: {error}"))
            else:
                waiting.append(held)
        return waiting

    def _drained(self) -> list[_Held[T, R]]:
        held = [self._next] if self._next else []
        while True:
            try:
                held.append(self._arrived.get_nowait())
            except queue.Empty:
                return held
