"""Polls that a restore loses, with people in them: what these still hold is refused, and is nothing to later polls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg2

from models.wire import names
from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.stack.progress import say
from scripts.stack.supervision import wait_until

POLLS = 25
SOON_S = 60.0
_OPTIONS = 4
_CALLS = (("POST", "state", {"newState": "open"}), ("POST", "host-token", None), ("GET", "results.json", None))

Ask = Callable[..., list[tuple[object, ...]]]


class Drilled(Exception):
    """It did not come back as it should."""


class LostPolls:
    """Made after the moment that is restored. One is open on a page at each node, whose guest has voted."""

    def __init__(self, stack: RunningStack, ask: Ask) -> None:
        self._nodes = stack.nodes
        self._ask = ask
        self.rooms = [rest.open_room(self._nodes[0], number, _OPTIONS) for number in range(POLLS)]
        self._ids = self._ids_of(self.rooms)
        self._queued: list[bool] = []
        self._guests = [Guest(node) for node in self._nodes]
        for number, guest in enumerate(self._guests):
            guest.join(self.rooms[0].code, f"stray {number}")
            _demand(guest.vote(self.rooms[0].code, 1).success, "a vote was refused before the restore")

    def vote_into_the_queue(self) -> threading.Thread:
        """Have each guest vote once more as soon as the database is away; the thread ends when that is acked."""

        def vote() -> None:
            wait_until(lambda: not self._answers(), SOON_S, "the database was never away")
            self._queued = [guest.vote(self.rooms[0].code, 2).success for guest in self._guests]

        voting = threading.Thread(target=vote, name="votes-into-the-queue")
        voting.start()
        return voting

    def check(self) -> None:
        """After the restore.

        :raises Drilled, StepFailed: something of a lost poll is still good for anything
        """
        _demand(self._queued == [True] * len(self._guests), f"votes did not go into the queue: {self._queued}")
        code = self.rooms[0].code
        for guest in self._guests:
            _demand(guest.hears(names.VOTE_REJECTED, SOON_S), "a page was not told that its queued vote is lost")
            _demand(guest.hears(names.POLL_GONE, SOON_S), "a page was not told that its poll is gone")
            _demand(_is_gone(guest.vote(code, 3).body), "a vote for a lost poll was not refused")
        for room in self.rooms:
            for method, call, body in _CALLS:
                self._refused(method, room.code, call, body, room.host_token)
        made = [rest.open_room(self._nodes[-1], number, _OPTIONS) for number in range(POLLS)]
        again = self._ids & self._ids_of(made)
        _demand(not again, f"{len(again)} of {POLLS} polls have the id of a lost one")
        self._try_everything_in(made)
        for guest in self._guests:
            guest.close()
        say(f"{POLLS} polls are lost: their tokens, pages and queued votes are refused, and touch none of the new ones")

    def _try_everything_in(self, made: Sequence[rest.Room]) -> None:
        for room in made:
            for lost in self.rooms:
                for method, call, body in _CALLS:
                    self._refused(method, room.code, call, body, lost.host_token)
            for number, guest in enumerate(self._guests):
                me, token = guest.participant_id, guest.token
                joined = guest.join(room.code, f"stray {number}", token).body
                _demand(joined.get("reconnected") is False, "a lost poll's token resumes in another one")
                guest.participant_id, guest.token = me, token
                _demand(not guest.vote(room.code, 1).success, "a lost poll's participant votes in another one")
            _demand(not any(rest.totals(self._nodes[0], room.code).votes), f"{room.code} has votes that nobody gave")
        for table in ("votes", "tallies", "poll_batches"):
            left = self._ask(f"SELECT count(*) FROM {table} WHERE poll_id = ANY(%s)", sorted(self._ids))  # nosec B608: names of our own
            _demand(left == [(0,)], f"{table} has rows of lost polls")

    def _refused(self, method: str, code: str, call: str, body: object, token: str) -> None:
        try:
            rest.call(self._nodes[0], method, f"/api/polls/{code}/{call}", body, token)
        except rest.RestError as error:
            _demand(": 404 " in str(error) or ": 403 " in str(error), str(error))
        else:
            raise Drilled(f"a lost poll's host token is good for {call} of {code}")

    def _ids_of(self, rooms: Sequence[rest.Room]) -> set[int]:
        rows = self._ask("SELECT id FROM polls WHERE room_code = ANY(%s)", [room.code for room in rooms])
        return {int(str(poll_id)) for (poll_id,) in rows}

    def _answers(self) -> bool:
        try:
            self._ask("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True


def _is_gone(answer: dict[str, object]) -> bool:
    return answer.get("code") == "poll_not_found"


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Drilled(otherwise)
