"""FR-027: every process is replaced, one after the other and by another version, and nobody who votes notices."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from scripts.faults.guest import Guest
from scripts.faults.load import OPTIONS, Load, Size, describe_findings
from scripts.faults.stack import RunningStack, read_env
from scripts.loadtest import rest
from scripts.loadtest.voter import BROWSER
from scripts.stack.bring_up import consumers
from scripts.stack.rolling import interpreter
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
from tests.breakable import first_stack
from tests.models.wire.frozen import READERS, frozen
from tests.outages.probes import new_poll
from tests.own_stack import plain_environment

pytestmark = first_stack
_WITHIN_S = 100
_CALLERS = 16
_MODULES = Path("socket_tier/web/node_modules")
Rolling = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version before: what RELEASED names, as in the pipeline, or the last commit that isn't what is tested."""
    folder = tmp_path_factory.mktemp("previous")
    dirty = subprocess.run(["git", "-C", ROOT, "diff", "--quiet", "HEAD"], check=False).returncode
    revision = os.environ.get("RELEASED") or ("HEAD" if dirty else "HEAD~1")
    archive = subprocess.run(["git", "-C", ROOT, "archive", revision], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"no history: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    if (folder / _MODULES.parent / "package-lock.json").read_bytes() == (
        ROOT / _MODULES.parent / "package-lock.json"
    ).read_bytes():
        (folder / _MODULES).symlink_to(ROOT / _MODULES)
    return folder


@pytest.fixture
def rolling(stack: RunningStack) -> Iterator[Rolling]:
    """Runs scripts/rolling-restart; afterwards all processes are of today's code again."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "rolling-restart", "--run-dir", stack.folder.path, *arguments],
            env=plain_environment(),
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )

    yield run
    others = [victim.name for victim in stack.ours() if code_of(victim.pid()) != ROOT]
    if others:
        assert run(*others).returncode == 0


def code_of(pid: int | None) -> Path | None:
    """The checkout that a process runs."""
    return Path(f"/proc/{pid}/cwd").readlink() if pid else None


@pytest.fixture
def old_workers(stack: RunningStack, previous: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A worker of each kind of the version before, beside the stack's."""
    env = plain_environment() | read_env(stack.folder.process_env_file) | {"PYTHONPATH": str(previous)}
    python = interpreter(previous, stack.folder)
    kinds = ("votes", "host")
    before = [consumers(stack.env["AMQP_URL"], kind) for kind in kinds]
    workers = []
    try:
        for kind in kinds:
            own = {"VOTEMILL_WORKER__NAME": f"old-{kind}-worker"}
            with stack.folder.log(own["VOTEMILL_WORKER__NAME"]).open("w") as out:
                command = [python, "-m", "workers", kind]
                workers.append(subprocess.Popen(command, env=env | own, cwd=previous, stdout=out, stderr=out))
        for kind, number in zip(kinds, before, strict=True):
            wait_until(lambda: consumers(stack.env["AMQP_URL"], kind) > number, 30, f"no old worker for {kind}")  # noqa: B023
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.proves("FR-004", "FR-027", "FR-029", "SC-002", "US5.1", "US5.5", "E3")
def test_an_old_and_a_new_version_work_side_by_side_and_one_replaces_the_other_unnoticed(
    stack: RunningStack, previous: Path, rolling: Rolling, old_workers: list[subprocess.Popen[bytes]]
) -> None:
    # Given a node and workers of the version before, and a node and workers of today
    with ThreadPoolExecutor(_CALLERS + 1) as pool:
        restart = pool.submit(rolling, "--from", previous, "node-1")
        calls = [pool.submit(call_until, restart.done, stack.base) for _ in range(_CALLERS)]
    assert restart.result().returncode == 0, restart.result()
    # (A node has answered every call, though there was no socket to wait for, and the balancer knows that it is back.)
    answers = set().union(*(call.result() for call in calls))
    assert (201, "") in answers
    assert {answer for answer in answers if answer[0] in (502, 504) or answer[1] == "no_node"} == set()
    assert stack.folder.log("haproxy").read_text().rpartition("nodes/node-1 is ")[2].startswith("UP")
    assert [code_of(node.pid()) for node in stack.of_kind("node")] == [previous, ROOT]
    # When polls are made, voted in and closed by way of both
    for number in range(4):
        here, there = stack.nodes if number % 2 else stack.nodes[::-1]
        vote_by_way_of_both(rest.open_room(here, 90 + number, OPTIONS), here, there)
    # And all processes are replaced by today's while a crowd votes at both nodes
    with Load(stack, Size(comeback=BROWSER)) as load:
        load.begin()
        done = load.during(rolling)
        for worker in old_workers:
            worker.terminate()
        assert [load.during(lambda w=worker: w.wait(30)) for worker in old_workers] == [0, 0]
        result = load.settle(20)
    # Then each stopped in order, and came back
    assert done.returncode == 0, done.stdout + done.stderr
    assert "did not stop" not in done.stdout
    assert {code_of(victim.pid()) for victim in stack.ours()} == {ROOT}
    # And of the crowd nobody was refused, lost or given up, and every vote counts, the same at both nodes
    assert result["clean"] and result["answers_complete"], describe_findings(result)
    assert result["refusals"] == result["rejections"] == {}
    assert result["reconnects"] >= Size().voters
    assert result["gave_up"] == 0


def call_until(done: Callable[[], bool], base: rest.Base) -> set[tuple[int, str]]:
    """Status and code of the answers to making polls, one after the other; a node may be busy on a busy machine."""
    replies = (new_poll(base) for _ in iter(done, True))
    return {(reply.status, reply.body.get("code", "")) for reply in replies}


def vote_by_way_of_both(room: rest.Room, here: rest.Base, there: rest.Base) -> None:
    """Two participants, one at each node, see each other's votes; one moves over with its vote; the poll is closed."""
    guests = [Guest(here), Guest(there)]
    for option, guest in enumerate(guests):
        assert guest.join(room.code, f"guest {option}").success
        assert guest.vote(room.code, option).success
    for guest in guests:
        wait_until(lambda: guest.results.totals == b"1,1,0,0", 20, f"not shown: {guest.results.totals}")  # noqa: B023
    moved = Guest(there)
    again = moved.join(room.code, "guest 0", guests[0].token)
    assert (again.body["reconnected"], again.body["previousVote"]) == (True, 0), again
    assert moved.vote(room.code, 2).success
    rest.change_state(there, room, "closed")
    for node in (here, there):
        wait_until(lambda: rest.totals(node, room.code).final, 30, "not final")  # noqa: B023
        assert rest.totals(node, room.code).votes == (0, 1, 1, 0)
    for guest in (*guests, moved):
        guest.close()


# Reads messages on stdin with the code of the folder it runs in, but for kinds that it doesn't know; their number.
_READ_ALL = """
import sys, msgspec
from models.wire.commands import ROUTES
from models.wire.notices import Notice
from models.wire.polls import BrowserRole, PollSnapshot
known = {kind.__name__: kind for kind in (*ROUTES, *Notice.__args__, BrowserRole, PollSnapshot)}
lines = [msgspec.json.decode(line) for line in sys.stdin]
print(sum(msgspec.convert(said, known[kind]) is not None for kind, said in lines if kind in known))
"""


@pytest.mark.proves("FR-027")
def test_the_version_before_understands_the_messages_of_today(previous: Path, stack: RunningStack) -> None:
    spoken = [read(line) for name, (read, _) in READERS.items() for line in frozen(name)]
    done = subprocess.run(
        [interpreter(previous, stack.folder), "-c", _READ_ALL],
        input=b"\n".join(msgspec.json.encode((type(each).__name__, each)) for each in spoken),
        env=plain_environment() | {"PYTHONPATH": str(previous)},
        cwd=previous,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 20


def test_a_process_that_does_not_come_back_ends_the_restart_and_leaves_the_others(
    stack: RunningStack, rolling: Rolling, tmp_path: Path
) -> None:
    # Given a version that can't start
    for package in ("socket_tier", "workers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "__main__.py").write_text("raise SystemExit('broken')")
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    before = {victim.name: victim.pid() for victim in stack.ours()}
    # When it is to replace today's
    done = rolling("--from", tmp_path)
    # Then its first process tells that it doesn't start, and all others run on
    assert done.returncode == 1
    assert "✗ worker-1 did not become ready" in done.stdout
    assert str(stack.folder.log("worker-1")) in done.stdout
    after = {victim.name: victim.pid() for victim in stack.ours()}
    assert {name for name in before if before[name] != after[name]} == {"worker-1"}


@pytest.mark.parametrize(("arguments", "said"), [(["--from", "/usr"], "no checkout"), (["redis"], "choose from")])
def test_a_restart_of_what_is_not_there_touches_nothing(
    stack: RunningStack, rolling: Rolling, arguments: list[str], said: str
) -> None:
    before = [victim.pid() for victim in stack.ours()]
    done = rolling(*arguments)
    assert done.returncode == 1
    assert said in done.stdout
    assert [victim.pid() for victim in stack.ours()] == before
