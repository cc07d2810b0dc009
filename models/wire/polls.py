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


def poll_view(poll: PollSnapshot, participant_count: int) -> dict[str, Any]:
    """The ``poll`` object of REST answers and acks (wire contract)."""
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
