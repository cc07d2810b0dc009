"""A poll as it travels between processes and as browsers see it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec


class PollState(StrEnum):
    """Where a poll stands. ``waiting`` has never been opened, ``closed`` may be opened again."""

    WAITING = "waiting"
    OPEN = "open"
    CLOSED = "closed"


class Results(StrEnum):
    """Who sees a poll's totals while it is not closed; its host always does. ``HOST``: nobody else, ever."""

    ALWAYS = "always"
    AFTER_VOTE = "after-vote"
    AFTER_CLOSE = "after-close"
    HOST = "host"


class PollRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host chose when creating a poll; it holds for the poll's life.

    ``vote_change``: a vote may be changed while voting is open; without it the first one stands. ``close_after_s``:
    each voting period ends by itself after so many seconds. ``max_participants``: below what the installation allows.
    """

    results: Results = Results.ALWAYS
    vote_change: bool = True
    close_after_s: int | None = None
    max_participants: int | None = None


USUAL_RULES = PollRules()


class PollSnapshot(msgspec.Struct, frozen=True):
    """Everything a node needs of a poll, stored in Redis by the workers and compared by ``version``.

    All ``*_us`` are microseconds since the epoch. ``votes`` is dense: one total per option, in option order.
    ``state_changed_at_us`` orders state changes: a node ignores one that is older than what it has. ``opened_at_us`` is
    when the current (or last) voting period began, 0 before the first. ``final`` is true once the totals of a closed
    poll can no longer change. ``token_generation`` revokes all host tokens of a lower generation. ``host_browsers`` are
    the browsers whose cookie controls the poll.
    """

    poll_id: int
    room_code: str
    question: str
    options: tuple[str, ...]
    state: PollState
    version: int
    votes: tuple[int, ...]
    final: bool
    created_at_us: int
    state_changed_at_us: int
    opened_at_us: int = 0
    reopened_count: int = 0
    token_generation: int = 1
    creator_address: str = ""
    expires_at_us: int = 0
    host_browsers: tuple[UUID, ...] = ()
    rules: PollRules = USUAL_RULES

    @property
    def closes_at_us(self) -> int:
        """When the running voting period ends by itself; 0 when nothing of the kind is to come."""
        after_s = self.rules.close_after_s
        return self.opened_at_us + after_s * 1_000_000 if after_s and self.state is PollState.OPEN else 0


class BrowserRole(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a browser's cookie stands for: a participant (with its nickname), or the host's role in a room.

    ``token_generation``: which the host's role was given under; it is void once the poll has a higher one.
    """

    poll_id: int
    room_code: str
    participant_id: UUID | None = None
    nickname: str | None = None
    host: bool = False
    joined_at_us: int = 0
    token_generation: int = 1


def percentages(votes: Sequence[int]) -> list[int]:
    """Integers that sum to 100 by the largest remainder, the earlier option first on a tie; all 0 with no votes."""
    total = sum(votes)
    if total == 0:
        return [0] * len(votes)
    shares = [count * 100 // total for count in votes]
    by_remainder = sorted(range(len(votes)), key=lambda i: (-(votes[i] * 100 % total), i))
    for i in by_remainder[: 100 - sum(shares)]:
        shares[i] += 1
    return shares


def iso_time(at_us: int) -> str:
    """ISO 8601 in UTC with milliseconds, for example ``2026-01-02T03:04:05.678Z``."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hides_totals(rules: PollRules, state: PollState) -> bool:
    """Whether, in this state, only some may see a poll's totals."""
    if rules.results is Results.ALWAYS:
        return False
    return rules.results is Results.HOST or state is not PollState.CLOSED


def closing_time(poll: PollSnapshot) -> str | None:
    """When voting closes by itself, for browsers; None when it doesn't."""
    closes_at_us = poll.closes_at_us
    return iso_time(closes_at_us) if closes_at_us else None


def poll_view(poll: PollSnapshot, participant_count: int) -> dict[str, Any]:
    """The ``poll`` object of REST answers and acks (wire contract)."""
    rules = poll.rules
    return {
        "roomCode": poll.room_code,
        "question": poll.question,
        "options": list(poll.options),
        "state": poll.state.value,
        "participantCount": participant_count,
        "votes": list(poll.votes),
        "percentages": percentages(poll.votes),
        "version": poll.version,
        "final": poll.final,
        "reopenedCount": poll.reopened_count,
        "createdAt": iso_time(poll.created_at_us),
        "closesAt": closing_time(poll),
        "rules": {
            "results": rules.results.value,
            "voteChange": rules.vote_change,
            "closeAfterS": rules.close_after_s,
            "maxParticipants": rules.max_participants,
        },
    }


def vote_update(poll: PollSnapshot, participant_count: int, now_us: int) -> dict[str, Any]:
    """The payload of ``vote-update`` (wire contract)."""
    return {
        "votes": list(poll.votes),
        "percentages": percentages(poll.votes),
        "timestamp": iso_time(now_us),
        "roomCode": poll.room_code,
        "version": poll.version,
        "final": poll.final,
        "participantCount": participant_count,
    }


def masked(shown: dict[str, Any]) -> dict[str, Any]:
    """A ``poll`` object or ``vote-update`` for somebody who may not see the totals: how many votes, not which.

    Zeros in their place, so that a page that knows nothing of this shows bars without length.
    """
    nothing = [0] * len(shown["votes"])
    return {**shown, "votes": nothing, "percentages": nothing, "hidden": True, "voteCount": sum(shown["votes"])}
