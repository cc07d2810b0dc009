"""Votes that keep coming in while migrations run, stored as workers store them, and the account of them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from models.database import Database, DatabaseUnavailable
from models.vote_store import store_batches
from models.wire.commands import CastVote, VoteBatch
from scripts.migrations.contents import NODE, open_polls

_THREADS = 4
_VOTERS = 50  # of each thread, in a poll of its own, who vote together
_PAUSE_S = 0.1  # so 2 000 votes a second
_RETRY_S = 0.05
_STORED = "SELECT participant_id, option_index FROM votes WHERE poll_id = ANY(%s)"


@dataclass
class Voters:
    """What they did. ``longest_s``: what the slowest batch took, from its first try to its commit."""

    polls: list[int]
    longest_s: float = 0.0
    votes: int = 0
    last: dict[UUID, int] = field(default_factory=dict)  # each participant's last stored choice

    def lost(self, db: Database) -> list[str]:
        """Participants whose stored choice isn't their last."""
        with db.transaction():
            stored = dict(db.execute(_STORED, (self.polls,)).fetchall())
        return [
            f"{who}: {stored.get(who)} instead of {option}"
            for who, option in self.last.items()
            if stored.get(who) != option
        ]


@contextmanager
def voting(db: Database) -> Iterator[Voters]:
    """Voters who vote until the end of the block; then all they have sent is stored."""
    voters = Voters(open_polls(db, _THREADS))
    over = threading.Event()

    def vote(poll_id: int) -> None:
        crowd = [uuid4() for _ in range(_VOTERS)]
        for seq in itertools.count(10):
            _store(db, voters, poll_id, crowd, seq)
            if over.wait(_PAUSE_S):
                return

    with ThreadPoolExecutor(_THREADS, "voters") as pool:
        votings = [pool.submit(vote, poll) for poll in voters.polls]
        try:
            while not any(voting.done() for voting in votings) and len(voters.last) < _THREADS * _VOTERS:
                time.sleep(_RETRY_S)
            yield voters
        finally:
            over.set()
    for voting_of_one in votings:
        voting_of_one.result()


def _store(db: Database, voters: Voters, poll_id: int, crowd: list[UUID], seq: int) -> None:
    """As a worker does it: again and again while the database, or the schema, is away."""
    option = seq % 3
    batch = VoteBatch(uuid4(), NODE, tuple(CastVote(poll_id, who, option, seq, seq) for who in crowd))
    began = time.monotonic()
    while True:
        try:
            store_batches(db, [batch], now_us=seq)
            break
        except DatabaseUnavailable as error:
            time.sleep(_RETRY_S)
            if error.reason == "schema":
                began = time.monotonic()  # this version needs what was taken down: that is no pause in a deployment
    voters.longest_s = max(voters.longest_s, time.monotonic() - began)
    voters.votes += len(crowd)
    voters.last |= dict.fromkeys(crowd, option)
