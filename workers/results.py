"""Publishes the totals of polls that changed: at most once per tick, the newest only, until it has worked."""

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

import redis

from models import poll_store
from models.database import DatabaseUnavailable
from models.runtime import tls
from models.runtime.clock import now_us
from models.wire import names
from models.wire.polls import PollSnapshot, vote_update
from workers.database_gate import DatabaseGate
from workers.fan_out import Emission, FanOut
from workers.metrics import WorkerMetrics
from workers.rooms import Outcome, Rooms, StoredRoom

log = logging.getLogger(__name__)

_NOTHING: Mapping[int, Sequence[str]] = {}
_TRACED_OF_A_POLL = 20  # of a tick
_CAPACITY_POLLS = 100_000
_ROUND_POLLS = 500  # per query and pipeline
# Many rooms that change all the time are published less often: their totals must not take the time of their votes.
_PER_POLL_S = 0.01
_TICK_MOST_S = 1.0
_PAUSE_S = 0.1  # after a failure; doubled up to _PAUSE_MAX_S, jittered
_PAUSE_MAX_S = 0.5


class ResultsPublisher:
    """Remembers changed polls and publishes each once per ``tick_s``: at once when the last tick is over, else then.

    After a round of many polls the tick is longer, up to a second.

    What could not be published stays remembered and is published when Redis and the database are back.
    """

    def __init__(
        self, gate: DatabaseGate, rooms: Rooms, fan_out: FanOut, metrics: WorkerMetrics, tick_s: float
    ) -> None:
        self._gate = gate
        self._rooms = rooms
        self._fan_out = fan_out
        self._metrics = metrics
        self._tick_s = tick_s
        self._changed: dict[int, int | None] = {}  # the oldest vote that nobody has been shown, where it is known
        self._traced: dict[int, list[str]] = {}  # poll -> correlation ids of what has changed it
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._failing = False
        self.redis_ok = True
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def change(self, tick_s: float) -> None:
        """Another tick, from the next one on."""
        self._tick_s = tick_s

    @property
    def waiting(self) -> int:
        return len(self._changed)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 3) -> None:
        """Publish what is remembered, once more, then stop. What is lost here the sweep of another worker finds."""
        self._closing.set()
        with self._wake:
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def mark(
        self,
        poll_ids: Iterable[int],
        oldest_vote_us: int | None = None,
        traced: Mapping[int, Sequence[str]] = _NOTHING,
    ) -> None:
        """These polls have changed, by votes the oldest of which was received then, and by what has these correlation
        ids, as far as it has any. Never blocks for long."""
        with self._wake:
            for poll_id in poll_ids:
                if poll_id in self._changed or len(self._changed) < _CAPACITY_POLLS:
                    self._changed[poll_id] = _older(self._changed.get(poll_id), oldest_vote_us)
                    if poll_id in traced:
                        named = self._traced.setdefault(poll_id, [])
                        named += traced[poll_id][: _TRACED_OF_A_POLL - len(named)]
                else:
                    self._metrics.count("results.overflow")
            self._wake.notify()

    def publish(self, changed: Mapping[int, int | None], traced: Mapping[int, Sequence[str]] = _NOTHING) -> None:
        """Read these polls, store them in Redis and emit those for which nothing newer was there.

        ``changed``: their ids, with the oldest vote that nobody has been shown, where it is known.

        :raises DatabaseUnavailable, redis.RedisError: publish all of them again
        """
        started = time.monotonic()
        polls = self._gate.call(lambda db: poll_store.read_snapshots(db, list(changed)))
        stored = self._rooms.store(polls)
        pairs = list(zip(polls, stored, strict=True))
        self._emit([(poll, room) for poll, room in pairs if room.outcome is not Outcome.OUTDATED], changed, traced)
        for poll, room in pairs:
            if room.outcome is Outcome.MISSING:
                self._restore(poll)
        self._metrics.count("results.outdated", sum(room.outcome is Outcome.OUTDATED for room in stored))
        self._metrics.timing_ms("results.round_ms", (time.monotonic() - started) * 1000)

    def _emit(
        self,
        pairs: Sequence[tuple[PollSnapshot, StoredRoom]],
        changed: Mapping[int, int | None],
        traced: Mapping[int, Sequence[str]],
    ) -> None:
        at_us = now_us()
        emissions = []
        for poll, room in pairs:
            payload = vote_update(poll, room.present, at_us)
            # The node takes these out: totals belong to nobody's vote.
            payload[names.TOTALS_STATE] = poll.state.value
            if (oldest_vote_us := changed[poll.poll_id]) is not None:
                payload[names.OLDEST_VOTE_US] = oldest_vote_us
            if poll.poll_id in traced:
                payload["traced"] = traced[poll.poll_id]
            emissions.append(Emission(names.VOTE_UPDATE, payload, names.poll_room(poll.room_code)))
        self._fan_out.emit(emissions)
        for poll, _ in pairs:
            if poll.poll_id in traced:
                emitted = {"poll_id": poll.poll_id, "room_code": poll.room_code, "version": poll.version}
                log.info("results_emitted", extra=emitted | {"correlation_ids": traced[poll.poll_id]})
        self._metrics.count("results.published", len(pairs))

    def _restore(self, poll: PollSnapshot) -> None:
        """Redis was emptied. The nicknames come first, so a room is never there without them."""
        self._rooms.restore(poll, self._gate.call(lambda db: poll_store.read_nicknames(db, poll.poll_id)))
        self._metrics.count("results.restored")

    def _run(self) -> None:
        tick_over = 0.0
        pause_s = _PAUSE_S
        while self._wait_for_change():
            self._closing.wait(max(0.0, tick_over - time.monotonic()))
            tick_over = time.monotonic() + max(self._tick_s, min(self.waiting * _PER_POLL_S, _TICK_MOST_S))
            if self._round():
                pause_s = _PAUSE_S
                continue
            if self._closing.is_set():
                return
            self._closing.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _wait_for_change(self) -> bool:
        """False when there is nothing more to do."""
        with self._wake:
            while not self._changed:
                if self._closing.is_set():
                    return False
                self._wake.wait(1)
            return True

    def _round(self) -> bool:
        with self._wake:
            changed, self._changed = self._changed, {}
            traced, self._traced = self._traced, {}
        poll_ids = sorted(changed)
        for start in range(0, len(poll_ids), _ROUND_POLLS):
            try:
                self.publish({poll_id: changed[poll_id] for poll_id in poll_ids[start : start + _ROUND_POLLS]}, traced)
            except (DatabaseUnavailable, redis.RedisError) as error:
                self._failed(error, {poll_id: changed[poll_id] for poll_id in poll_ids[start:]}, traced)
                return False
            except Exception:
                # Must not end this thread, nor take the polls round and round: the sweep tries them again.
                log.exception("results_failed", extra={"polls": len(poll_ids)})
                self._metrics.count("results.failed")
        self._recovered(len(poll_ids))
        return True

    def _failed(self, error: Exception, polls: Mapping[int, int | None], traced: Mapping[int, Sequence[str]]) -> None:
        self.redis_ok = not isinstance(error, redis.RedisError)
        self._metrics.count("results.failed")
        if not self._failing:
            said = repr(error) if self.redis_ok else tls.explained("redis", error)
            log.warning("results_paused", extra={"polls": len(polls), "error": said})
        self._failing = True
        for poll_id, oldest_vote_us in polls.items():
            self.mark([poll_id], oldest_vote_us, traced)

    def _recovered(self, polls: int) -> None:
        self.redis_ok = True
        if self._failing:
            self._failing = False
            log.info("results_resumed", extra={"polls": polls})


def _older(one: int | None, other: int | None) -> int | None:
    return min((at_us for at_us in (one, other) if at_us is not None), default=None)
