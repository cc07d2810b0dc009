"""Stores vote batches, merged; sets votes aside that the database refuses for their own sake."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from uuid import UUID, uuid5

import msgspec

from models import vote_parts, vote_store
from models.ballots import rejection
from models.database import DatabaseUnavailable
from models.runtime import correlation
from models.runtime.clock import now_us
from models.runtime.settings import WorkerSettings
from models.wire.commands import CastVote, VoteBatch
from models.wire.envelope import Envelope, wrap
from models.wire.notices import Rejection
from workers import delivery
from workers.database_gate import DatabaseGate
from workers.dead_letters import DeadLetters
from workers.delivery import Delivery
from workers.errors import GiveBack, StepAside
from workers.group_commit import GroupCommit
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)

_NOT_STORABLE = "not_storable"
_NOT_STORABLE_TEXT = "Your vote could not be stored"


LOCK_WAIT_S = 0.5  # far above what another worker's transaction takes
_COMES_AGAIN_S = 1.0  # and later, up to _AT_MOST_S, the longer the poll has been locked
_AT_MOST_S = 3.0
_LOOK_EVERY_S = 0.3
_REMEMBERED = 10_000  # batches


class _Entangled(Exception):
    """One of several batches waits for another transaction."""


class VoteFlusher:
    """Group commit for votes.

    A poll whose row somebody keeps locked holds up nobody else's votes: its own are left out, and their batches go
    through the delay queue until it is free.

    After each commit ``on_changed(poll_ids, oldest_vote_us, traced)`` is told which polls have changed, when the oldest
    of the votes was received, and for some polls the correlation ids of votes that did it; ``on_chosen(votes)`` what
    the participants have chosen.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        gate: DatabaseGate,
        dead_letters: DeadLetters,
        metrics: WorkerMetrics,
        on_changed: Callable[[Sequence[int], int | None, Mapping[int, list[str]]], None],
        on_chosen: Callable[[Collection[CastVote]], None],
        stopping: threading.Event,
    ) -> None:
        self._on_chosen = on_chosen
        self._gate = gate
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._on_changed = on_changed
        self._deliveries: dict[UUID, Delivery] = {}  # of the batches that threads wait for
        self._locked: dict[int, float] = {}  # polls that were when they were last looked at; since when
        self._looked_at = 0.0
        self._left: dict[UUID, Set[int]] = {}  # of batches that come again: which polls they wait for
        self._commit: GroupCommit[VoteBatch, tuple[Rejection, ...] | None] = GroupCommit(
            "vote-flusher",
            self._store,
            weigh=lambda batch: len(batch.votes),
            most=settings.merge_votes,
            linger_s=settings.merge_wait_s,
            callers=settings.vote_threads,
            hold_s=settings.outage_hold_s,
            stopping=stopping,
            on_waiting=lambda votes: metrics.gauge("votes.waiting", votes),
        )
        self.start = self._commit.start
        self.close = self._commit.close

    def store(self, batch: VoteBatch) -> tuple[Rejection, ...]:
        """Decide a batch; returning means committed. Its rejections, by place in the batch.

        :raises StepAside: a part of it is not stored; the batch must come again
        :raises GiveBack: not known to be stored; the batch must come again
        :raises DatabaseUnavailable: likewise
        :raises Unconfirmed, Unroutable: a poison vote could not be put into safety; the batch must come again
        :raises Exception: it failed, and none of its votes is to blame; worth another try later
        """
        self._deliveries[batch.batch_id] = delivery.current()
        try:
            return self._submit(batch)
        except (GiveBack, StepAside):
            raise
        except Exception as error:
            # Not the database's absence, which the group commit waits out: something about this very batch.
            return self._without_poison(batch, error)
        finally:
            self._deliveries.pop(batch.batch_id, None)

    def _submit(self, batch: VoteBatch) -> tuple[Rejection, ...]:
        locked = self._locked
        if locked and time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            polls = self._left.get(batch.batch_id) or vote_parts.polls_of(batch)
            if polls and polls <= locked.keys():
                raise _later(locked, polls)  # it would only take the others' time
        rejected = self._commit.submit(batch)
        if rejected is not None:
            self._left.pop(batch.batch_id, None)
            return rejected
        locked = self._locked
        polls = vote_parts.polls_of(batch) & locked.keys()
        if len(self._left) >= _REMEMBERED:
            self._left = {}  # all of them are tried once more than they need
        self._left[batch.batch_id] = polls
        raise _later(locked, polls)

    def _store_around(self, batches: Sequence[VoteBatch]) -> vote_store.StoredBatches:
        """Store the batches, without the polls that are locked."""
        if self._locked:
            self._learn(self._gate.call(lambda db: vote_parts.find_locked(db, self._locked.keys())))
        try:
            return self._gate.call(lambda db: vote_store.store_batches(db, batches, now_us(), self._locked.keys()))
        except DatabaseUnavailable as error:
            if error.reason != "locked":
                raise
        polls = vote_store.storable(poll_id for batch in batches for poll_id in vote_parts.polls_of(batch))
        locked = self._gate.call(lambda db: vote_parts.find_locked(db, polls))
        if locked <= self._locked.keys():
            # No poll, then: another worker is about to apply one of these very batches, and hangs.
            if len(batches) > 1:
                raise _Entangled
            return vote_store.StoredBatches([None], [])
        self._metrics.count("votes.polls_locked", len(locked - self._locked.keys()))
        self._learn(locked | self._locked.keys())
        log.warning("polls_locked", extra={"polls": sorted(locked)[:10], "number": len(locked)})
        return self._gate.call(lambda db: vote_store.store_batches(db, batches, now_us(), self._locked.keys()))

    def _learn(self, locked: Set[int]) -> None:
        self._looked_at = now = time.monotonic()
        self._locked = {poll_id: self._locked.get(poll_id, now) for poll_id in locked}

    def _store(self, batches: Sequence[VoteBatch]) -> list[tuple[Rejection, ...] | None]:
        started = time.monotonic()
        correlation.begin()  # the batches have traces of their own
        held = [(batch, self._deliveries.get(batch.batch_id) or Delivery()) for batch in batches]
        try:
            stored = self._store_around(batches)
        except DatabaseUnavailable:
            for _, delivered in held:
                delivered.failed_tries += 1
            raise
        took_s = time.monotonic() - started
        for _, delivered in held:
            delivered.database_s += took_s
        # A batch's first vote came first: it would cost too much to look at all.
        oldest_vote_us = min((batch.votes[0].received_at_us for batch in batches if batch.votes), default=None)
        votes = sum(len(batch.votes) for batch in batches)
        rejected = sum(len(refused) for refused in stored.rejections if refused)
        fields = {"batch_ids": [batch.batch_id.hex for batch in batches], "votes": votes, "rejected": rejected}
        log.info("votes_committed", extra=fields | {"began_ms_ago": round(took_s * 1000, 3)})
        self._on_changed(stored.changed_polls, oldest_vote_us, _traced_polls(held))
        self._on_chosen(stored.choices)
        self._metrics.timing_ms("votes.transaction_ms", took_s * 1000)
        self._metrics.timing_ms("votes.merged", votes)
        self._metrics.count("votes.transactions")
        self._metrics.count("votes.batches", len(batches))
        self._metrics.count("votes.stored", votes - rejected)
        self._metrics.count("votes.rejected", rejected)
        return stored.rejections

    def _without_poison(self, batch: VoteBatch, error: Exception) -> tuple[Rejection, ...]:
        """Bury the votes that make the batch fail, then store it once, as a whole, without them."""
        self._metrics.count("votes.bisected")
        places = self._gate.call(lambda db: vote_store.poisonous_votes(db, batch, now_us()))
        if not places:
            raise error
        polls = vote_store.storable(batch.votes[place].poll_id for place in places)
        rooms = self._gate.call(lambda db: vote_store.room_codes(db, polls))
        for place in places:
            self._bury(batch, place, error)
        poison = set(places)
        kept = [place for place in range(len(batch.votes)) if place not in poison]
        # Stored also when nothing is left, and counted for the polls of the votes left out: their close waits for it.
        rest = msgspec.structs.replace(
            batch, votes=tuple(batch.votes[place] for place in kept), also_counts=tuple(sorted(polls))
        )
        refused = self._submit(rest)
        rejected = [msgspec.structs.replace(one, index=kept[one.index]) for one in refused]
        rejected += [rejection(place, batch.votes[place], _NOT_STORABLE, _NOT_STORABLE_TEXT, rooms) for place in places]
        return tuple(sorted(rejected, key=lambda one: one.index))

    def _bury(self, batch: VoteBatch, place: int, error: Exception) -> None:
        """One vote as a batch of its own. Its id follows from the old one, so that burying it twice shows."""
        single = VoteBatch(uuid5(batch.batch_id, str(place)), batch.node_id, (batch.votes[place],))
        queue, body = wrap(single, sent_us=now_us())
        envelope = msgspec.json.decode(body, type=Envelope)
        log.error("vote_poisoned", extra={"batch_id": batch.batch_id.hex, "index": place})
        origin = {"original_batch_id": str(batch.batch_id), "original_index": place}
        body = msgspec.json.encode(msgspec.structs.replace(envelope, options=origin))
        self._dead_letters.bury(queue, body, _NOT_STORABLE, error)
        self._metrics.count("votes.poisoned")


def _later(locked: Mapping[int, float], polls: Set[int]) -> StepAside:
    locked_s = time.monotonic() - min((locked[poll_id] for poll_id in polls), default=time.monotonic())
    return StepAside("its polls are locked", park_s=min(_AT_MOST_S, max(_COMES_AGAIN_S, locked_s / 3)))


def _traced_polls(held: Sequence[tuple[VoteBatch, Delivery]]) -> dict[int, list[str]]:
    """The correlation ids of votes that have one, by poll."""
    traced: dict[int, list[str]] = {}
    for batch, delivered in held:
        for place, named in delivered.traced.items():
            if place < len(batch.votes):
                traced.setdefault(batch.votes[place].poll_id, []).append(named)
    return traced
