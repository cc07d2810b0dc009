"""Wrong wall clocks, and clocks that are set while people vote, in every kind of process: nothing is decided by them.

CLOCK_ROUNDS=6 gives each kind of process each of the errors; as it is, two rounds do the worst of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from scripts.faults.clocks import PACKAGE, FakeClock, give_clock
from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack, read_env
from scripts.loadtest import rest
from scripts.stack import packages
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
from tests.outages.probes import http_call, read_poll
from tests.own_stack import on_own_servers, own_stack, plain_environment

pytestmark = [on_own_servers, pytest.mark.timeout(300)]

Errors = tuple[float, ...]
MINUTES_S, DAY_S = 600, 86_400
ERRORS_S = (2, MINUTES_S, 40 * DAY_S, -2, -MINUTES_S, -DAY_S)
ROLES = ("node-1", "worker-1", "host-worker-1")  # node-2's clock is right
# In each round every role has another error; in six every role has had every error.
ROUNDS = [tuple(ERRORS_S[(first + 2 * place) % 6] for place in range(3)) for first in (1, 4, 0, 2, 3, 5)]
ROUNDS = ROUNDS[: int(os.environ.get("CLOCK_ROUNDS", "2"))]
OPTIONS = ["Yes", "No", "Later"]
OPEN_S = 12
# Of a round trip on a busy machine; what was really measured is printed.
MEASURED_US = 100_000
QUICK = {"NODE__DRAIN_S": "0", "WORKER__STRAGGLER_WAIT_S": "2", "POLL__RETENTION_DAYS": "30"}


class Bench:
    """A stack whose first processes of each kind have clocks of their own."""

    NONE: Errors = (0.0, 0.0, 0.0)

    def __init__(self, folder: Path) -> None:
        self.stack = RunningStack(folder)
        self.clocks = [give_clock(self.stack.folder, name) for name in ROLES]
        self.wrong, self.right = self.stack.nodes
        self._settings = read_env(self.stack.folder.process_env_file)

    def start_with(self, errors_s: Errors) -> None:
        """Start the processes anew by these clocks."""
        self.set(errors_s)
        for name in ROLES:
            self.stack[name].restart()
        for node in (self.wrong, self.right):
            wait_until(lambda: self.health(node)["status"] == "healthy", 60, "a node is not healthy")  # noqa: B023

    def set(self, errors_s: Errors) -> None:
        for clock, error_s in zip(self.clocks, errors_s, strict=True):
            clock.set(error_s)

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg2.connect(self.stack.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()

    def now_us(self) -> int:
        return int(self.ask("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")[0][0])

    def health(self, node: rest.Base) -> dict[str, Any]:
        return http_call(node, "GET", "/api/health").body

    def participants(self, node: rest.Base, room: rest.Room) -> int:
        return int(read_poll(node, room.code).body["participantCount"])

    def vote(self, voter: Guest, room: rest.Room, option: int) -> int:
        """Vote; by how many microseconds the time that the vote is stored with lies outside of when it was cast."""
        began_us = self.now_us()
        assert voter.vote(room.code, option).success
        ended_us = self.now_us()
        self.finds(voter, option)
        sql = "SELECT (extract(epoch FROM submitted_at) * 1000000)::bigint FROM votes WHERE participant_id = %s"
        ((at_us,),) = self.ask(sql, voter.participant_id)
        return max(0, began_us - at_us, at_us - ended_us)

    def finds(self, voter: Guest, option: int) -> None:
        """This is the choice that is stored, or will be in a moment."""
        sql = "SELECT option_index FROM votes WHERE participant_id = %s"
        wait_until(lambda: self.ask(sql, voter.participant_id) == [(option,)], 30, "the newer choice did not win")

    def ends_us(self, room: rest.Room) -> int:
        ((opened_us,),) = self.ask("SELECT opened_at_us FROM polls WHERE room_code = %s", room.code)
        return int(opened_us) + OPEN_S * 1_000_000

    def closed_at_us(self, node: rest.Base, room: rest.Room) -> int:
        """Wait for a node to say so; when it did, by the database's clock."""
        wait_until(lambda: read_poll(node, room.code).body["state"] == "closed", OPEN_S + 30, "voting did not end")
        return self.now_us()

    def contents(self) -> list[tuple[Any, ...]]:
        """All polls with their retention and how many votes each has."""
        votes = "(SELECT count(*) FROM votes WHERE poll_id = id)"
        return self.ask(f"SELECT room_code, expires_at, {votes} FROM polls ORDER BY 1")  # nosec B608

    def retention(self, clock: FakeClock) -> str:
        """Run it by itself, by such a clock; what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "workers.retention"],
            env=plain_environment() | self._settings | clock.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def run_dir() -> Path:
    return Path(os.environ["RUN_DIR"])


@pytest.fixture(scope="module")
def bench(run_dir: Path) -> Iterator[Bench]:
    packages.install_missing([PACKAGE], run_dir / "log" / "packages.log")
    with own_stack(run_dir, "clocks", "--nodes", "2", settings=QUICK) as folder:
        yield Bench(folder)


@pytest.fixture
def guests() -> Iterator[Callable[..., Guest]]:
    """Makes participants of a poll, at a node; the same one again with a token."""
    with ExitStack() as leaving:

        def make(node: rest.Base, room: rest.Room, name: str, token: str = "") -> Guest:
            guest = Guest(node)
            leaving.callback(guest.close)
            assert guest.join(room.code, name, token).success
            return guest

        yield make


@pytest.mark.parametrize("errors_s", ROUNDS)
def test_nothing_is_decided_by_a_wrong_clock_or_by_one_that_is_set(
    bench: Bench, guests: Callable[..., Guest], errors_s: Errors, record_property: Callable[[str, object], None]
) -> None:
    # Given processes that start by wrong clocks, and a participant at each node in polls that the wrong one has made
    bench.start_with(errors_s)
    plain = rest.open_poll(bench.wrong, "Tea?", OPTIONS)
    timed = rest.open_poll(bench.wrong, "Coffee?", OPTIONS, closeAfterS=OPEN_S)
    nodes = (bench.wrong, bench.right)
    early = [guests(node, timed, f"Early {number}") for number, node in enumerate(nodes)]
    stays = [guests(node, plain, f"Stays {number}") for number, node in enumerate(nodes)]
    # And one with a tab at each
    tab = guests(bench.wrong, plain, "Tab")
    other = guests(bench.right, plain, "Tab", tab.token)
    # When people vote while the clocks are set, forth and back, by whole errors
    missed_us = 0
    for turn, errors in enumerate((errors_s, bench.NONE, tuple(-error_s for error_s in errors_s), errors_s)):
        bench.set(errors)
        for voter, option in ((other, turn * 2 % 3), (tab, (turn * 2 + 1) % 3)):
            # Then of one participant's choices the newer one wins
            missed_us = max(missed_us, bench.vote(voter, plain, option))
        for voter in early:
            assert voter.vote(timed.code, turn % 2).success
    # And a poll with a time ends at it everywhere, neither earlier nor later
    ends_us = bench.ends_us(timed)
    closed_us = [bench.closed_at_us(node, timed) for node in nodes]
    assert all(at_us >= ends_us - MEASURED_US for at_us in closed_us), (ends_us, closed_us)
    # Nodes go ahead of the commit, which has the same time
    closed = "SELECT closed_at_us FROM polls WHERE room_code = %s AND state = 'closed'"
    wait_until(lambda: bool(bench.ask(closed, timed.code)), 30, "no worker has committed the close")
    assert bench.ask(closed, timed.code) == [(ends_us,)]
    # And a vote that was acked before a close counts, at whichever node
    for voter in (tab, *stays):
        assert voter.vote(plain.code, 2).success
    rest.change_state(bench.right, plain, "closed")
    wait_until(lambda: rest.totals(bench.right, plain.code).final, 60, "the totals did not become final")
    assert rest.totals(bench.right, plain.code).votes == (0, 0, 3)
    assert rest.totals(bench.right, timed.code).votes == (0, 2, 0)
    for voter in (tab, *stays):
        assert voter.vote(plain.code, 0).body["error"] == "Voting is not open"
    # And nobody has left, nor was any vote taken back
    for guest in (tab, other, *stays, *early):
        assert not {"participant-left", "vote-rejected"} & set(guest.heard)
    assert [bench.participants(node, plain) for node in nodes] == [3, 3]
    # And who voted when is told by the shared time, within its measured error
    error_ms = max(bench.health(node)["dependencies"]["clock"]["errorMs"] for node in nodes)
    record_property("clock_error_ms", error_ms)
    print(f"clocks off by {errors_s} s: times within {error_ms:.3f} ms, votes outside by {missed_us / 1000:.3f} ms")
    assert missed_us <= MEASURED_US


@pytest.mark.parametrize("error_s", [40 * DAY_S, -DAY_S])
def test_retention_deletes_what_is_over_and_nothing_else_whatever_its_clock_says(
    bench: Bench, error_s: int, tmp_path: Path
) -> None:
    # Given polls, one of which is past its retention since a second ago, and as old as one in use may become
    kept, over = (rest.open_poll(bench.right, "Tea?", OPTIONS) for _ in range(2))
    aged = "created_at = now() - interval '70 days', expires_at = now() - interval '1 s'"
    bench.ask(f"UPDATE polls SET {aged} WHERE room_code = %s RETURNING id", over.code)  # nosec B608
    bench.ask("UPDATE polls SET expires_at = now() + interval '2 h' WHERE room_code = %s RETURNING id", kept.code)
    before = bench.contents()
    # When somebody cleans up on a machine with a wrong clock
    said = bench.retention(FakeClock(tmp_path / "clock", error_s))
    # Then that poll is gone, and nothing else
    assert bench.contents() == [row for row in before if row[0] != over.code], said
    assert read_poll(bench.wrong, over.code).status == 404
