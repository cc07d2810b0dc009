"""The account: does the product hold what it acked? Ledger against votes table, and both against what REST tells.

The rules are those of promise 1: a participant's stored choice is the last acked one or a later sent one; an acked vote
has a row; one row each; nobody has a row who sent nothing; the totals are the sums of the rows, on every node.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from time import monotonic, sleep

import psycopg2

from scripts.loadtest.ledger import Claim, VoterLedger
from scripts.loadtest.rest import Base, RestError, Totals, totals

MISSING, DOUBLED, WRONG_OPTION, UNSENT, TOTALS, UNREADABLE = (
    "missing",
    "doubled",
    "wrong option",
    "never sent",
    "totals disagree",
    "unreadable",
)

_LOOK_EVERY_S = 0.3
_READ_VOTES = """
    SELECT polls.room_code, votes.participant_id::text, votes.option_index
    FROM votes JOIN polls ON polls.id = votes.poll_id
    WHERE polls.room_code = ANY(%s)
"""

Claims = Mapping[str, Mapping[str, Claim]]
"""Per room and participant (in normal form)."""


@dataclass(frozen=True)
class StoredVote:
    """A row of the votes table."""

    room: str
    participant_id: str
    option: int


@dataclass(frozen=True)
class Finding:
    """Something that breaks the promise. ``kind`` is one of the constants above."""

    kind: str
    room: str
    detail: str


@dataclass
class Account:
    """The result: clean when there are no findings.

    ``rows`` None when no database was looked at. ``totals`` per room as agreed (or as told last by the first URL).
    ``waited_s``: until everything was settled, or the patience over.
    """

    findings: list[Finding] = field(default_factory=list)
    participants: int = 0
    rows: int | None = None
    totals: dict[str, Totals] = field(default_factory=dict)
    waited_s: float = 0.0

    def count(self, kind: str) -> int:
        """Findings of one kind."""
        return sum(1 for finding in self.findings if finding.kind == kind)


class DatabaseUnreadable(Exception):
    """The votes table could not be read."""


def normal_id(participant_id: str) -> str:
    """One spelling for a participant: UUIDs come with and without dashes."""
    return participant_id.replace("-", "").lower()


def claims_of(ledgers: Iterable[VoterLedger]) -> dict[str, dict[str, Claim]]:
    """What each ledger allows the table to hold, per room and participant."""
    claims: dict[str, dict[str, Claim]] = defaultdict(dict)
    for ledger in ledgers:
        if ledger.participant_id:
            claims[ledger.room][normal_id(ledger.participant_id)] = ledger.claim()
    return claims


def check_table(claims: Claims, rows: Iterable[StoredVote]) -> list[Finding]:
    """Every participant's rows against its claim."""
    stored: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        stored[row.room, normal_id(row.participant_id)].append(row.option)
    findings: list[Finding] = []
    for room, participants in claims.items():
        for participant, claim in participants.items():
            findings += _check_participant(room, participant, claim, stored.pop((room, participant), []))
    for (room, participant), options in stored.items():
        findings.append(Finding(UNSENT, room, f"{participant} has option {options} and is none of our voters"))
    return findings


def _check_participant(room: str, participant: str, claim: Claim, options: Sequence[int]) -> Iterable[Finding]:
    wanted = sorted(claim.allowed)
    if not options:
        if claim.required:
            yield Finding(MISSING, room, f"{participant} has no row; acked or sent later: {wanted}")
    elif len(options) > 1:
        yield Finding(DOUBLED, room, f"{participant} has {len(options)} rows: {list(options)}")
    elif not wanted:
        yield Finding(UNSENT, room, f"{participant} has option {options[0]} and sent nothing that stands")
    elif options[0] not in claim.allowed:
        yield Finding(WRONG_OPTION, room, f"{participant} has option {options[0]}; acked or sent later: {wanted}")


def totals_fit(votes: Sequence[int], claims: Iterable[Claim]) -> bool:
    """Whether some choice within the claims adds up to these totals: exact even while votes are unacked.

    Hall's condition: for every set of options, at least those who can't be elsewhere, at most those who may be there.
    """
    patterns = Counter((claim.required, claim.allowed) for claim in claims if claim.allowed)
    options = range(len(votes))
    if any(option not in options for _, allowed in patterns for option in allowed):
        return False
    for size in range(1, len(votes) + 1):
        for chosen in map(frozenset, combinations(options, size)):
            counted = sum(votes[option] for option in chosen)
            least = sum(n for (required, allowed), n in patterns.items() if required and allowed <= chosen)
            most = sum(n for (_, allowed), n in patterns.items() if allowed & chosen)
            if not least <= counted <= most:
                return False
    return True


def check_totals(
    room: str, told: Mapping[str, Totals], claims: Iterable[Claim], rows: Sequence[StoredVote] | None
) -> list[Finding]:
    """REST's totals, per URL, against the rows (exactly) or, without a database, against the claims."""
    findings: list[Finding] = []
    sums = Counter(row.option for row in rows if row.room == room) if rows is not None else None
    claims = list(claims)
    for url, answer in told.items():
        if sums is not None:
            expected = tuple(sums[option] for option in range(len(answer.votes)))
            if answer.votes != expected or sum(sums.values()) != sum(expected):
                findings.append(Finding(TOTALS, room, f"{url} tells {list(answer.votes)}, the table {dict(sums)}"))
        elif not totals_fit(answer.votes, claims):
            findings.append(Finding(TOTALS, room, f"{url} tells {list(answer.votes)}, which the ledger rules out"))
    if len({answer.votes for answer in told.values()}) > 1:
        findings.append(Finding(TOTALS, room, f"URLs differ: { {url: list(t.votes) for url, t in told.items()} }"))
    return findings


def read_votes(dsn: str, rooms: Sequence[str]) -> list[StoredVote]:
    """The rows of these rooms.

    :raises DatabaseUnreadable: the database is away, or answers too late
    """
    try:
        connection = psycopg2.connect(
            dsn, connect_timeout=5, options="-c statement_timeout=20000", application_name="votemill-load"
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(_READ_VOTES, (list(rooms),))
                return [StoredVote(room, participant, option) for room, participant, option in cursor]
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise DatabaseUnreadable(str(error).strip() or type(error).__name__) from None


def settle(
    ledgers: Callable[[], Sequence[VoterLedger]],
    bases: Sequence[Base],
    dsn: str | None,
    patience_s: float,
    final: bool = False,
    pause: Callable[[float], None] = sleep,
) -> Account:
    """Look again and again until everything agrees or ``patience_s`` seconds are over: totals may be late, never wrong.

    ``ledgers`` is asked each time, since a ``vote-rejected`` may still come in. ``final``: the polls were closed, so
    their totals must be called final as well.
    """
    started_at = monotonic()
    while True:
        account = _look(claims_of(ledgers()), bases, dsn, final)
        account.waited_s = monotonic() - started_at
        if not account.findings or account.waited_s >= patience_s:
            return account
        pause(_LOOK_EVERY_S)


def _look(claims: Claims, bases: Sequence[Base], dsn: str | None, final: bool) -> Account:
    account = Account(participants=sum(len(participants) for participants in claims.values()))
    rows = None
    # REST first: a table that is read later can only be further, so agreement means that REST has caught up.
    told = {room: _told(room, bases, account.findings) for room in claims}
    if dsn:
        try:
            rows = read_votes(dsn, list(claims))
            account.rows = len(rows)
            account.findings += check_table(claims, rows)
        except DatabaseUnreadable as error:
            account.findings.append(Finding(UNREADABLE, "", f"database: {error}"))
    for room, answers in told.items():
        if answers:
            account.totals[room] = next(iter(answers.values()))
        account.findings += check_totals(room, answers, claims[room].values(), rows)
        if final and not all(answer.final for answer in answers.values()):
            account.findings.append(Finding(TOTALS, room, "closed, and still not final"))
    return account


def _told(room: str, bases: Sequence[Base], findings: list[Finding]) -> dict[str, Totals]:
    told = {}
    for base in bases:
        try:
            told[base.url] = totals(base, room)
        except RestError as error:
            findings.append(Finding(UNREADABLE, room, str(error)))
    return told
