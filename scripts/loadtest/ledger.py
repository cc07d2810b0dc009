"""What each voter sent and what it was told, vote by vote: the only witness that the account believes.

Nothing here comes from the product's counters. A vote is numbered 1, 2, 3, ... within its voter; two bytes hold it.
"""

from dataclasses import dataclass

SENT, ACKED, REFUSED, RECORDED, REJECTED, RESENT = 0, 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Claim:
    """What the votes table may hold for one participant.

    ``required``: a row must exist. ``allowed``: the options it may hold; empty when no row may exist.
    """

    required: bool
    allowed: frozenset[int]


@dataclass(frozen=True)
class Tally:
    """Counts of votes by what became of them. ``refused`` and ``unanswered`` were never acked."""

    sent: int = 0
    acked: int = 0
    refused: int = 0
    rejected: int = 0
    unanswered: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.sent + other.sent,
            self.acked + other.acked,
            self.refused + other.refused,
            self.rejected + other.rejected,
            self.unanswered + other.unanswered,
        )


class VoterLedger:
    """One participant's votes in the order of sending."""

    __slots__ = ("choices", "marks", "participant_id", "room")

    def __init__(self, room: str, participant_id: str = "") -> None:
        self.room = room
        self.participant_id = participant_id
        self.choices = bytearray()
        self.marks = bytearray()

    def sent(self, option: int) -> int:
        """Enter a vote; its number. Enter it before it goes out, or a crash between the two loses a witness."""
        self.choices.append(option)
        self.marks.append(SENT)
        return len(self.choices)

    def mark(self, number: int, what: int) -> bool:
        """Add ACKED, REFUSED, RECORDED, REJECTED or RESENT to a vote; False when it already was or never was sent."""
        if not 1 <= number <= len(self.marks) or self.marks[number - 1] & what:
            return False
        self.marks[number - 1] |= what
        return True

    def newest_with(self, option: int) -> int:
        """Number of the newest vote for ``option`` that isn't rejected, 0 if none: for a rejection without an id."""
        for number in range(len(self.choices), 0, -1):
            if self.choices[number - 1] == option and not self.marks[number - 1] & REJECTED:
                return number
        return 0

    def claim(self) -> Claim:
        """Promise 1: the last acked and not rejected vote stands, or a later one that was sent.

        A vote that the server told to be recorded counts like an acked one. A vote that was sent twice under one id and
        rejected once may still be stored from its other copy: it is allowed then, and not required. A refused vote may
        be stored as well (the refusal of a publish whose confirm never came), so it is allowed.
        """
        allowed = set()
        for option, marks in zip(reversed(self.choices), reversed(self.marks), strict=True):
            if not marks & REJECTED:
                allowed.add(option)
                if marks & (ACKED | RECORDED):
                    return Claim(True, frozenset(allowed))
            elif marks & RESENT:
                allowed.add(option)
        return Claim(False, frozenset(allowed))

    def tally(self) -> Tally:
        """Counts over this voter's votes; a vote acked in one of its copies counts as acked."""
        acked = sum(1 for marks in self.marks if marks & ACKED)
        refused = sum(1 for marks in self.marks if marks & REFUSED and not marks & ACKED)
        rejected = sum(1 for marks in self.marks if marks & REJECTED)
        silent_rejected = sum(1 for marks in self.marks if marks & (REJECTED | ACKED | REFUSED) == REJECTED)
        sent = len(self.marks)
        return Tally(sent, acked, refused, rejected, sent - acked - refused - silent_rejected)
