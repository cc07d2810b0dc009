"""Which votes count: a poll's options and voting periods, against one vote. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from models.wire.commands import CastVote, VoteBatch
from models.wire.notices import Rejection

# Machine codes with the text that browsers show.
POLL_NOT_FOUND = "poll_not_found"
INVALID_OPTION = "invalid_option"
VOTING_NOT_OPEN = "voting_not_open"
VOTE_STANDS = "vote_stands"
ERRORS = {
    POLL_NOT_FOUND: "Poll not found",
    INVALID_OPTION: "Invalid option index",
    VOTING_NOT_OPEN: "Voting is not open",
    VOTE_STANDS: "Votes can't be changed in this poll",
}

END_OF_TIME_US = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Ballot:
    """What decides about a poll's votes. A period is ``opened_at_us <= received_at_us < closed_at_us``.

    ``at_rest``: voting is not open now. ``final``: it is closed, and its totals were called final. ``changeable``: a
    participant's later vote replaces the earlier one; otherwise the first one stands.
    """

    options: int
    periods: tuple[tuple[int, int], ...]
    final: bool = False
    at_rest: bool = False
    changeable: bool = True

    def refusal(self, vote: CastVote) -> str | None:
        """The code of the reason why this vote doesn't count; None when it does."""
        if vote.option_index >= self.options:
            return INVALID_OPTION
        for opened_at_us, closed_at_us in self.periods:
            if opened_at_us <= vote.received_at_us < closed_at_us:
                return None
        return VOTING_NOT_OPEN


class Decision:
    """The votes of several batches, decided and folded to one per participant and poll: the highest ``seq`` wins.

    A vote that doesn't count never replaces one that does, so refusing comes before folding. ``standing``: of polls
    without changes the option that each of these participants has voted for already, by poll and participant (as a
    number). The same choice again is no change.
    """

    def __init__(self, ballots: Mapping[int, Ballot], standing: Mapping[tuple[int, int], int] | None = None) -> None:
        self._ballots = ballots
        self._standing = standing or {}
        self.latest: dict[tuple[int, int], CastVote] = {}
        self.refused: list[tuple[CastVote, str]] = []
        self.stands: dict[tuple[int, int], int] = {}  # of whom a vote was refused for that: by poll and participant
        self._first_us: dict[tuple[int, int], int] = {}

    def add(self, votes: Iterable[CastVote]) -> None:
        ballots, latest = self._ballots, self.latest
        for vote in votes:
            ballot = ballots.get(vote.poll_id)
            code = ballot.refusal(vote) if ballot else POLL_NOT_FOUND
            if code:
                self.refused.append((vote, code))
                continue
            key = (vote.poll_id, vote.participant_id.int)
            other = latest.get(key)
            if ballot is not None and not ballot.changeable:
                stands = self._standing.get(key) if other is None else other.option_index
                if stands is not None:
                    if stands != vote.option_index:
                        self.refused.append((vote, VOTE_STANDS))
                        self.stands[key] = stands
                    continue
            if other is None:
                latest[key] = vote
                continue
            first_us = self._first_us.get(key, other.received_at_us)
            self._first_us[key] = min(first_us, vote.received_at_us)
            if other.seq < vote.seq:
                latest[key] = vote

    def first_received_us(self, vote: CastVote) -> int:
        """When the earliest of the votes that were folded into this one was received."""
        return self._first_us.get((vote.poll_id, vote.participant_id.int), vote.received_at_us)


def rejections(
    batch: VoteBatch,
    codes: Mapping[tuple[int, int, int], str],
    room_codes: Mapping[int, str],
    stands: Mapping[tuple[int, int], int],
) -> tuple[Rejection, ...]:
    """One batch's refused votes, by its own places. ``codes`` by poll, participant (as a number) and seq;
    ``room_codes`` by poll; ``stands`` as in ``Decision``."""
    if not codes:
        return ()
    found = []
    for index, vote in enumerate(batch.votes):
        code = codes.get((vote.poll_id, vote.participant_id.int, vote.seq))
        if code:
            standing = stands.get((vote.poll_id, vote.participant_id.int), -1)
            found.append(rejection(index, vote, code, ERRORS[code], room_codes, standing))
    return tuple(found)


def rejection(
    index: int, vote: CastVote, code: str, error: str, room_codes: Mapping[int, str], stands: int = -1
) -> Rejection:
    """What is said of one refused vote."""
    room_code = room_codes.get(vote.poll_id, "")
    return Rejection(index, code, error, vote.participant_id, vote.option_index, room_code, vote.seq, stands)
