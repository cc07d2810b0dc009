"""Brings participants' last choices in Redis up to what is committed, whatever became of the node that acked them."""

import logging
import threading
from collections.abc import Collection, Iterable

import redis

from models import vote_store
from models.database import DatabaseUnavailable
from models.wire.choices import NOT_COUNTED
from models.wire.commands import CastVote
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.rooms import Rooms

log = logging.getLogger(__name__)

# The more there is the longer it is collected: of who keeps voting the last choice alone is written.
_COLLECT_S = 0.02
_PER_CHOICE_S = 0.0001
_COLLECT_MOST_S = 0.5
_PAUSE_AFTER_FAILURE_S = 0.5
_CAPACITY_CHOICES = 100_000
_CODES_KEPT = 10_000

# By participant (hex): poll, option or NOT_COUNTED, seq.
_Choices = dict[str, tuple[int, int, int]]


class ChoiceWriter:
    """One thread that writes behind the answers to batches, and again until Redis has it.

    Nodes write what they have acked as well. But one that is killed before leaves an older choice in Redis, which
    nobody else would correct. Of polls of which too much waits, beyond ``_CAPACITY_CHOICES``, Redis is made to forget
    all choices: whoever resumes asks the database then, and an older one is not left there either.
    """

    def __init__(self, gate: DatabaseGate, rooms: Rooms, metrics: WorkerMetrics) -> None:
        self._gate = gate
        self._rooms = rooms
        self._metrics = metrics
        self._arrived: list[tuple[Collection[CastVote], bool]] = []  # whether they count
        self._arrived_votes = 0
        self._unwritten: _Choices = {}  # what Redis didn't take at first
        self._forgotten: set[int] = set()  # polls of which too much waited
        self._codes: dict[int, str] = {}
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="choices", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 3) -> None:
        """Write what is held, once more, then stop."""
        self._closing.set()
        with self._wake:
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def note(self, votes: Collection[CastVote], *, count: bool = True) -> None:
        """What these participants have chosen as of a commit; or votes that it has refused. Never blocks for long."""
        with self._wake:
            if self._arrived_votes > _CAPACITY_CHOICES:
                self._forget({vote.poll_id for vote in votes})
            else:
                self._arrived.append((votes, count))
                self._arrived_votes += len(votes)
            self._wake.notify()

    def _forget(self, polls: set[int]) -> None:
        self._metrics.count("choices.overflow")
        self._forgotten |= polls

    def _run(self) -> None:
        while self._wait():
            self._closing.wait(min(_COLLECT_S + self._arrived_votes * _PER_CHOICE_S, _COLLECT_MOST_S))
            if not self._round():
                if self._closing.is_set():
                    return
                self._closing.wait(_PAUSE_AFTER_FAILURE_S)

    def _wait(self) -> bool:
        """False when there is nothing more to do."""
        with self._wake:
            while not (self._arrived or self._unwritten or self._forgotten):
                if self._closing.is_set():
                    return False
                self._wake.wait(1)
            return True

    def _round(self) -> bool:
        """Whether Redis has everything."""
        with self._wake:
            arrived, self._arrived, self._arrived_votes = self._arrived, [], 0
            forgotten, self._forgotten = self._forgotten, set()
        fresh: _Choices = {}
        for votes, count in arrived:
            _fold(fresh, votes, count=count)
        try:
            self._rooms.forget_choices(self._room_codes(forgotten).values())
            # What Redis didn't take is old by now: it may replace what is there, but in a Redis that was emptied
            # meanwhile it could stand for something newer that has gone.
            self._write(self._unwritten, add=False)
            self._unwritten = {}
            self._write(fresh, add=True)
        except (DatabaseUnavailable, redis.RedisError) as error:
            self._keep(fresh, forgotten, error)
            return False
        except Exception:
            # A bug of ours: it must not end this thread, nor be met again and again.
            log.exception("choices_failed", extra={"votes": len(fresh)})
            self._metrics.count("choices.failed")
            return False
        self._failing = False
        return True

    def _keep(self, fresh: _Choices, forgotten: set[int], error: Exception) -> None:
        self._metrics.count("choices.failed")
        if not self._failing:
            log.warning("choices_not_written", extra={"votes": len(fresh), "error": repr(error)})
        self._failing = True
        for participant, choice in fresh.items():
            _put(self._unwritten, participant, choice)
        with self._wake:
            self._forgotten |= forgotten
            if len(self._unwritten) > _CAPACITY_CHOICES:
                self._forget({poll_id for poll_id, _, _ in self._unwritten.values()})
                self._unwritten = {}

    def _write(self, choices: _Choices, *, add: bool) -> None:
        codes = self._room_codes({poll_id for poll_id, _, _ in choices.values()})
        by_room: dict[str, list[tuple[str, int, int]]] = {}
        for participant, (poll_id, option, seq) in choices.items():
            if poll_id in codes:  # or it is gone, and so is its room
                by_room.setdefault(codes[poll_id], []).append((participant, option, seq))
        self._rooms.store_choices(by_room, add=add)

    def _room_codes(self, polls: Iterable[int]) -> dict[int, str]:
        """Those of the polls that exist. A poll's code never changes."""
        wanted = set(polls)
        missing = wanted - self._codes.keys()
        if missing:
            if len(self._codes) > _CODES_KEPT:
                self._codes = {}
                missing = wanted
            self._codes |= self._gate.call(lambda db: vote_store.room_codes(db, missing))
        return {poll_id: self._codes[poll_id] for poll_id in wanted if poll_id in self._codes}


def _fold(into: _Choices, votes: Collection[CastVote], *, count: bool) -> None:
    for vote in votes:
        _put(into, vote.participant_id.hex, (vote.poll_id, vote.option_index if count else NOT_COUNTED, vote.seq))


def _put(into: _Choices, participant: str, choice: tuple[int, int, int]) -> None:
    """The highest seq wins, and of the same vote that it was refused."""
    other = into.get(participant)
    if other is None or other[2] < choice[2] or (other[2] == choice[2] and choice[1] == NOT_COUNTED):
        into[participant] = choice
