"""scripts/chaos: its schedule, and that it leaves everything running."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from itertools import product
from pathlib import Path

import pytest

from scripts.faults.schedule import FREEZE, HALVES, HOLD_DOWN, KILL, schedule
from scripts.faults.stack import RunningStack
from tests.breakable import first_stack

pytestmark = first_stack
ROOT = Path(__file__).resolve().parents[2]
NAMES = ["postgres", "rabbitmq", "redis", "node-1", "node-2", "worker-1", "host-worker-1"]


def test_the_same_seed_breaks_the_same_things() -> None:
    assert schedule(7, 120, NAMES) == schedule(7, 120, list(reversed(NAMES)))
    assert schedule(7, 120, NAMES) != schedule(8, 120, NAMES)


def test_a_long_schedule_breaks_everything_in_every_way() -> None:
    blows = schedule(1, 1000, NAMES)
    assert {blow.name for blow in blows} == set(NAMES)
    assert {blow.action for blow in blows} == {KILL, HOLD_DOWN, FREEZE}
    assert all(0 < blow.at_s < blow.at_s + blow.for_s <= 1000 for blow in blows)


def test_links_are_halved_on_either_side_among_the_other_blows() -> None:
    links = ["node-1:redis", "worker-1:postgres"]
    blows = schedule(1, 1000, NAMES, links)
    assert {(blow.name, blow.action) for blow in blows if blow.name in links} == set(product(links, HALVES))
    assert {blow.action for blow in blows if blow.name not in links} == {KILL, HOLD_DOWN, FREEZE}
    assert blows == schedule(1, 1000, NAMES, list(reversed(links)))


def test_nothing_is_struck_while_it_is_still_down() -> None:
    ends: dict[str, float] = {}
    for blow in schedule(1, 1000, NAMES):
        assert ends.get(blow.name, 0) < blow.at_s, blow
        ends[blow.name] = blow.at_s + blow.for_s


@pytest.mark.proves("SC-002", "FR-035", "FR-036")
def test_chaos_finds_every_acked_vote(stack: RunningStack) -> None:
    done = subprocess.run(
        [*_command(stack), "--seconds", "8", "--seed", "4"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the account is clean" in done.stdout
    checked = re.search(r"acks checked +([1-9]\d*) closes, ([1-9]\d*) resumes, ([1-9]\d*) finals", done.stdout)
    assert checked, done.stdout


def test_ctrl_c_leaves_everything_running_also_when_started_in_the_background(stack: RunningStack) -> None:
    # Given a shell without job control, which has what it starts in the background ignore SIGINT
    started = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *_command(stack), "--seconds", "60", "--seed", "2"]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        # When two blows have been dealt: something is down or frozen, or on its way back
        blows = 0
        for line in running.stdout:
            blows += any(action in line for action in (FREEZE, KILL))
            if blows == 2:
                break
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        # Then it ends as interrupted, and everything runs
        assert running.wait(60) == 130
    deadline = time.monotonic() + 10
    while not all(_alive(pid) for victim in stack.victims.values() for pid in victim.tree()):
        assert time.monotonic() < deadline, "something is frozen"
        time.sleep(0.1)
    assert all(victim.tree() and victim.answers() for victim in stack.victims.values())


def _command(stack: RunningStack) -> list[str]:
    options = ["--run-dir", str(stack.folder.path), "--voters", "60", "--rate", "200"]
    return [str(ROOT / "scripts" / "chaos"), *options]


def _alive(pid: int) -> bool:
    """Neither stopped nor dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
    except OSError:
        return True
