"""A host who opens and closes polls while things break, and whose every ack is held against the database afterwards.

Each round is a poll of its own with a few voters: open, votes, close with votes still on the way, votes that come too
late, and now and then all of it once more. A command is repeated until it is acked, so the poll's log must hold each of
them, in this order; what was voted after an acked close must not count; a close has one final version, which the votes
table equals; who comes back is shown the last acked choice or a newer one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg2

from scripts.faults.guest import Answer, Guest
from scripts.loadtest import account, rest
from scripts.loadtest.account import TOTALS, UNREADABLE, Finding
from scripts.loadtest.connection import ConnectionLost
from scripts.loadtest.ledger import ACKED, RECORDED, REFUSED, REJECTED, RESENT, VoterLedger
from scripts.loadtest.rest import Base, RestError

CLOSE, LATE, RESUME, FINAL = "acked close", "counted after the close", "resume", "final"

_OPTIONS = 4
_TOO_LATE = _OPTIONS - 1  # chosen after a close, and never else
_VOTERS = 3
_VOTES_S = (0.5, 3.0)
_PAUSE_S = 0.3
_MOST_TRIES = 90
_LEAVES_WITHIN_S = 10.0
_NOT_HELD_BACK_S = 6.0
"""A command that got no answer is held by a frozen process for no longer, and must not come after the next one."""
_GUEST_ERRORS = (ConnectionLost, OSError, TimeoutError)
_READ_LOG = """
SELECT s.new_state FROM state_changes s JOIN polls p ON p.id = s.poll_id WHERE p.room_code = %s ORDER BY s.at_us, s.id
"""


class Voter:
    """A participant of a round, that comes back as the same one whenever its socket is gone."""

    def __init__(self, base: Base, room: str, nickname: str) -> None:
        self._base = base
        self._room = room
        self._nickname = nickname
        self._guest: Guest | None = None
        self._token = ""
        self.ledger = VoterLedger(room)
        self.finals: dict[int, tuple[int, ...]] = {}
        self.resumes = 0

    def come(self) -> Answer | None:
        """Connected and joined; the answer to join-room. None: not now."""
        self.leave()
        try:
            guest = self._guest = Guest(self._base)
            answer = guest.join(self._room, self._nickname, self._token)
        except _GUEST_ERRORS:
            return None
        if not answer.success:
            self.leave()
            return None
        self.resumes += bool(self._token)
        self.ledger.participant_id, self._token = guest.participant_id, guest.token
        return answer

    def vote(self, option: int) -> bool:
        """Enter what was sent, and what is told of it; whether it was answered at once. It is sent again until it is
        answered, since the next vote must not overtake it. Nothing is sent while nobody lets the voter in."""
        if not self._is_in():
            return True
        number, tries = self.ledger.sent(option), 0
        while self._guest is not None:
            tries += 1
            try:
                answer = self._guest.vote(self._room, option, str(number))
            except _GUEST_ERRORS:
                self.ledger.mark(number, RESENT)
                self.leave()
                while tries < _MOST_TRIES and not self._is_in():
                    tries += 1
                    time.sleep(1)
            else:
                self.ledger.mark(number, ACKED if answer.success else REFUSED)
                return tries == 1
        return False

    def _is_in(self) -> bool:
        return (self._guest is not None and not self._guest.lost) or self.come() is not None

    def shown(self) -> object:
        """The choice that a resume shows now; a text when there is no answer."""
        answer = self.come()
        return "no answer" if answer is None else answer.body.get("previousVote")

    def take_in(self) -> None:
        """What the present socket has heard since."""
        if self._guest is not None:
            self.finals |= self._guest.finals
            for number, event in list(self._guest.decided.items()):
                if number.isdigit():
                    self.ledger.mark(int(number), RECORDED if event == "vote-recorded" else REJECTED)

    def leave(self) -> None:
        self.take_in()
        if self._guest is not None:
            guest, self._guest = self._guest, None
            guest.close()


@dataclass
class Round:
    """One poll; ``log``: the acked commands in their order."""

    room: rest.Room
    voters: list[Voter]
    log: list[str] = field(default_factory=list)


class Hosting:
    """Rounds on a thread of its own, drawn from ``seed``, until ``finish``. Use it as a context."""

    def __init__(self, base: Base, seed: int) -> None:
        self._base = base
        self._dice = random.Random(seed)
        self._stopping = threading.Event()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hosting", daemon=True)
        self.rounds: list[Round] = []

    def __enter__(self) -> Hosting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._left.set()
        self._thread.join(_LEAVES_WITHIN_S)
        for voter in self._voters():
            voter.leave()

    def finish(self) -> None:
        """End with the close of the present round; needs servers that answer."""
        self._stopping.set()
        self._thread.join(120)

    def settle(self, nodes: Sequence[Base], dsn: str, patience_s: float) -> list[Finding]:
        """What contradicts an ack, after up to ``patience_s`` seconds for what may be late."""
        ends_at = time.monotonic() + patience_s
        left = list(self.rounds)
        while True:
            found = {id(each): self._check(each, nodes, dsn) for each in left}
            left = [each for each in left if found[id(each)]]
            if not left or time.monotonic() > ends_at:
                return [finding for findings in found.values() for finding in findings]
            time.sleep(1)

    def acks(self) -> dict[str, int]:
        """How many of each kind there were to check."""
        return {
            "closes": sum(each.log.count("closed") for each in self.rounds),
            "resumes": sum(voter.resumes for voter in self._voters()),
            "finals": sum(len(_finals(each)) for each in self.rounds),
        }

    def _voters(self) -> list[Voter]:
        return [voter for each in self.rounds for voter in each.voters]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                room = rest.open_poll(self._base, f"Round {len(self.rounds) + 1}", [f"{n}" for n in range(_OPTIONS)])
            except RestError:
                self._stopping.wait(_PAUSE_S)
                continue
            voters = [Voter(self._base, room.code, f"Voter {n + 1}") for n in range(_VOTERS)]
            present = Round(room, voters, ["open"])
            self.rounds.append(present)
            in_time = self._period(present)
            # A late vote that had to be sent again may lie in a frozen node yet, and come in time for the next period.
            if self._dice.random() < 0.5 and in_time:
                self._command(present, "open")
                self._period(present)

    def _period(self, present: Round) -> bool:
        """Votes, the close while they go on, and votes that are too late; whether those were answered at once."""
        closed = threading.Event()
        voting = [
            threading.Thread(target=self._vote, args=(voter, random.Random(self._dice.random()), closed), daemon=True)
            for voter in present.voters
        ]
        for thread in voting:
            thread.start()
        self._stopping.wait(self._dice.uniform(*_VOTES_S))
        self._command(present, "closed", closed.set)
        for thread in voting:
            thread.join(60)
        at_once = [voter.vote(_TOO_LATE) for voter in present.voters]
        return all(at_once)

    @staticmethod
    def _vote(voter: Voter, dice: random.Random, closed: threading.Event) -> None:
        while not closed.wait(dice.uniform(0.05, 0.3)):
            voter.vote(dice.randrange(_TOO_LATE))
            if dice.random() < 0.1:
                voter.leave()

    def _command(self, present: Round, state: str, on_ack: Callable[[], None] = lambda: None) -> None:
        """Again and again until it is acked: pending counts, for it will be so."""
        path, body = f"/api/polls/{present.room.code}/state", {"newState": state}
        while not self._left.is_set():
            try:
                rest.call(self._base, "POST", path, body, present.room.host_token)
            except RestError as error:
                self._left.wait(_NOT_HELD_BACK_S if error.retry_after_s is None else error.retry_after_s)
            else:
                present.log.append(state)
                break
        on_ack()

    def _check(self, one: Round, nodes: Sequence[Base], dsn: str) -> list[Finding]:
        try:
            rows, log = account.read_votes(dsn, [one.room.code]), _read_log(dsn, one.room.code)
            told = {node.url: rest.totals(node, one.room.code) for node in nodes}
        except (account.DatabaseUnreadable, RestError) as error:
            return [Finding(UNREADABLE, one.room.code, str(error))]
        found = _check_log(one, log)
        found += [Finding(LATE, one.room.code, row.participant_id) for row in rows if row.option == _TOO_LATE]
        found += [finding for voter in one.voters for finding in self._check_resume(voter)]
        claims = account.claims_of([_without_late(voter.ledger) for voter in one.voters])
        found += account.check_table(claims, [row for row in rows if row.option != _TOO_LATE])
        found += account.check_totals(one.room.code, told, claims.get(one.room.code, {}).values(), rows)
        if not all(answer.final for answer in told.values()):
            found.append(Finding(FINAL, one.room.code, "closed, and still not final"))
        return found + _check_finals(one, {answer.votes for answer in told.values()})

    @staticmethod
    def _check_resume(voter: Voter) -> list[Finding]:
        """By the same token, at whichever node: the last acked choice, or one that was sent later."""
        if not voter.ledger.participant_id:
            return []
        shown, claim = voter.shown(), _without_late(voter.ledger).claim()
        if shown in claim.allowed or (shown is None and not claim.required):
            return []
        return [Finding(RESUME, voter.ledger.room, f"shows {shown}; acked or sent later: {sorted(claim.allowed)}")]


def _check_log(one: Round, log: Sequence[str]) -> list[Finding]:
    """A command that was sent twice may stand there twice; nothing else may, and nothing may lack."""
    changes = [state for place, state in enumerate(log) if place == 0 or log[place - 1] != state]
    if changes == one.log:
        return []
    return [Finding(CLOSE, one.room.code, f"acked {one.log}, and the log has {changes}")]


def _check_finals(one: Round, told: set[tuple[int, ...]]) -> list[Finding]:
    """At most one version for each close; the last of them is what every node tells."""
    finals = _finals(one)
    if len(finals) > one.log.count("closed"):
        return [Finding(FINAL, one.room.code, f"{len(finals)} final versions of {one.log.count('closed')} closes")]
    if finals and told != {finals[max(finals)]}:
        return [Finding(TOTALS, one.room.code, f"final was {finals[max(finals)]}, and nodes tell {told}")]
    return []


def _finals(one: Round) -> dict[int, tuple[int, ...]]:
    for voter in one.voters:
        voter.take_in()
    return {version: votes for voter in one.voters for version, votes in voter.finals.items()}


def _without_late(ledger: VoterLedger) -> VoterLedger:
    """A vote that was sent after an acked close must not stand, whatever it was told."""
    kept = VoterLedger(ledger.room, ledger.participant_id)
    kept.choices, kept.marks = bytearray(ledger.choices), bytearray(ledger.marks)
    for number, option in enumerate(kept.choices, 1):
        if option == _TOO_LATE:
            kept.mark(number, REJECTED)
    return kept


def _read_log(dsn: str, room: str) -> list[str]:
    """:raises account.DatabaseUnreadable:"""
    try:
        connection = psycopg2.connect(dsn, connect_timeout=5, options="-c statement_timeout=20000")
        try:
            with connection.cursor() as cursor:
                cursor.execute(_READ_LOG, (room,))
                return [state for (state,) in cursor]
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise account.DatabaseUnreadable(str(error).strip()) from None
