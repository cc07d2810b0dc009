"""scripts/backup-drill: a disaster under votes, twice, and how much it cost.

First PostgreSQL is killed and its files are deleted, as when its machine is lost: the newest moment of the archive is
restored. Then, as after an operator's mistake, a moment of long before. Both times nodes, workers and browsers go on.
Polls that were made after that moment are lost with it: their tokens, pages and queued votes must be good for nothing.
Exit status: 0 all is right again, 1 something is not, 2 nothing to try it on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2

from scripts.backups.backup import back_up
from scripts.backups.lost_polls import Drilled, LostPolls
from scripts.backups.restore import recount, restore_in_place
from scripts.faults.guest import Guest
from scripts.faults.load import OPTIONS, Load, Size, describe_findings
from scripts.faults.stack import NotRunning, RunningStack
from scripts.loadtest import rest
from scripts.loadtest.fleet import CannotConnect, ProcessDied
from scripts.stack.progress import StepFailed, say
from scripts.stack.supervision import wait_until

MOMENT_AT = 0.6  # of the voting time
AFTERWARDS_S = 5.0
SOON_S = 60.0
SETTLE_S = 60.0

_BATCHES = "SELECT count(*) FROM applied_batches WHERE applied_at <= %s"
_LAST_BEFORE = "SELECT max(applied_at) FROM applied_batches WHERE applied_at < %s"
_NEWEST_VOTE_AGE_S = "SELECT extract(epoch FROM clock_timestamp() - max(submitted_at))::float8 FROM votes"


@dataclass(frozen=True)
class Marked:
    """A moment, and the least and most batches that were counted at it."""

    at: datetime
    least: int
    most: int


class Screen:
    """A browser in a poll where nothing happens by itself: it learns what was restored from the node alone."""

    def __init__(self, stack: RunningStack) -> None:
        self._base = stack.nodes[0]
        self.room = rest.open_room(self._base, 98, OPTIONS)
        self.guest = Guest(self._base)
        self.guest.join(self.room.code, "witness")

    def vote(self, option: int) -> None:
        """Vote and see it counted."""
        answer = self.guest.vote(self.room.code, option)
        if not answer.success:
            raise Drilled(f"a vote was refused: {answer.body}")
        self.shows([int(place == option) for place in range(OPTIONS)])

    def close_poll(self) -> None:
        rest.change_state(self._base, self.room, "closed")
        wait_until(lambda: rest.totals(self._base, self.room.code).final, SOON_S, "the totals did not become final")

    def shows(self, votes: list[int]) -> None:
        """Wait until the screen and the node show these totals, the screen without ever having gone back.

        :raises StepFailed: they don't
        """
        text = ",".join(map(str, votes)).encode()
        wait_until(lambda: self.guest.results.totals == text, SOON_S, f"the screen never showed {votes}")
        wait_until(
            lambda: rest.totals(self._base, self.room.code).votes == tuple(votes), SOON_S, f"REST never told {votes}"
        )
        if self.guest.results.went_back:
            raise Drilled("the screen was sent an older version after a newer one")


class Drill:
    """One run on a running stack of ``scripts/up --backup``."""

    def __init__(self, stack: RunningStack, seconds: float, size: Size) -> None:
        self._stack = stack
        self._seconds = seconds
        self._size = size

    def run(self) -> None:
        """:raises StepFailed, Drilled: what went wrong"""
        screen = Screen(self._stack)
        screen.vote(0)
        began = time.monotonic()
        back_up(self._stack.folder, "full")
        say(f"full backup: {time.monotonic() - began:.1f} s")
        with Load(self._stack, self._size) as load:
            load.begin()
            load.watch(self._seconds * MOMENT_AT)
            moment = self._mark()
            load.during(lambda: screen.vote(1))
            load.during(screen.close_poll)
            lost = load.during(lambda: LostPolls(self._stack, self._ask_all))
            load.watch(self._seconds * (1 - MOMENT_AT))
            self._lose_everything(load)
            load.watch(AFTERWARDS_S)
            self._go_back(load, moment, screen, lost)
            load.watch(AFTERWARDS_S)
            result = load.settle(SETTLE_S)
        screen.guest.close()
        self._check(result)

    def _mark(self) -> Marked:
        least, at = self._ask("SELECT count(*), clock_timestamp() FROM applied_batches")
        time.sleep(0.01)  # the clock goes on, so that what is counted now may lie behind the moment
        return Marked(at, least, self._ask(_BATCHES, at)[0])

    def _lose_everything(self, load: Load) -> None:
        postgres = self._stack["postgres"]
        cluster = (self._stack.folder.data / "postgres").resolve() / "cluster"

        def strike() -> None:
            postgres.kill_and_hold_down()
            shutil.rmtree(cluster)

        lost_at = time.time()
        load.strike(strike)
        say(f"PostgreSQL is killed and its files are deleted, under {self._size.rate:g} votes/s")
        load.during(lambda: restore_in_place(self._stack.folder, None))
        self._report("RTO", lost_at, load)
        (last,) = self._ask(_LAST_BEFORE, datetime.fromtimestamp(lost_at).astimezone())
        say(f"RPO: {lost_at - last.timestamp():.1f} s of counted votes were not in the archive")

    def _go_back(self, load: Load, moment: Marked, screen: Screen, lost: LostPolls) -> None:
        asked_at = time.time()
        voting = lost.vote_into_the_queue()
        load.during(lambda: restore_in_place(self._stack.folder, moment.at))
        voting.join()
        self._report(f"back to {moment.at:%H:%M:%S.%f}", asked_at, load)
        (batches,) = self._ask(_BATCHES, moment.at)
        if not moment.least <= batches <= moment.most:
            raise Drilled(f"{batches} batches are restored, {moment.least} to {moment.most} were counted then")
        load.during(lambda: screen.shows([1, 0, 0, 0]))
        load.during(lambda: screen.vote(2))
        say(f"the {batches} batches of then are there; a screen shows what was restored, and goes on from there")
        load.during(lost.check)

    def _report(self, what: str, since: float, load: Load) -> None:
        restored_s = time.time() - since
        if not load.until(lambda: self._ask(_NEWEST_VOTE_AGE_S)[0] < 1, SOON_S):
            raise Drilled("the votes of meanwhile are not counted")
        level_s = time.time() - since
        say(f"{what}: restored and shown after {restored_s:.1f} s, level with the votes after {level_s:.1f} s")

    def _check(self, result: dict[str, Any]) -> None:
        if not result["clean"] or result["updates"]["went_back"] or result["updates"]["stale_sockets"]:
            raise Drilled(describe_findings(result))
        say(
            f"{result['acked']} votes acked, {sum(result['refusals'].values())} refused, "
            f"{result['reconnects']} reconnects, the longest pause {result['longest_pause_s']} s; every voter's last "
            "choice is counted, and every screen shows the totals"
        )
        if recount(self._stack.folder, self._stack.dsn):
            raise Drilled("tallies and votes differ")

    def _ask(self, sql: str, *parameters: object) -> Any:
        (row,) = self._ask_all(sql, *parameters)
        return row

    def _ask_all(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self._stack.dsn, connect_timeout=5)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall()
        finally:
            connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/backup-drill", description="Lose the database, and get it back.")
    parser.add_argument("--seconds", type=float, default=60, help="of votes before the disaster (default %(default)s)")
    parser.add_argument("--voters", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--rate", type=float, default=1000, help="votes/s over all of them (default %(default)s)")
    parser.add_argument("--run-dir", required=True, help="a stack that may be destroyed")
    options = parser.parse_args()
    size = Size(options.voters, options.rate, rooms=2, at_most_s=options.seconds + 600)
    try:
        Drill(RunningStack(options.run_dir), options.seconds, size).run()
    except (NotRunning, CannotConnect, ProcessDied, rest.RestError) as problem:
        say(f"✗ {problem}")
        return 2
    except (StepFailed, Drilled) as problem:
        say(f"✗ {problem}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
