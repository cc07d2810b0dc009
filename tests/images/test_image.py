"""The image itself, built without a daemon, and its roles on the test stack. Run by ``scripts/image test``."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.runtime.settings import EX_CONFIG
from scripts.stack import ports
from scripts.stack.run_folder import ROOT

pytestmark = [pytest.mark.image, pytest.mark.proves("FR-022"), pytest.mark.timeout(300)]
IMAGE = ROOT / "scripts" / "image"


def run(*role: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One role until it ends."""
    return subprocess.run(
        [IMAGE, "run", *role], env=variables(**settings), capture_output=True, text=True, timeout=60, check=False
    )


def variables(**settings: str) -> dict[str, str]:
    return os.environ | {f"VOTEMILL_{name}": value for name, value in settings.items()}


@contextmanager
def running(log: Path, *role: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """One role that is stopped at the end, as an orchestrator does it, and must have had no trouble with that."""
    with log.open("w") as out:
        process = subprocess.Popen([IMAGE, "run", *role], env=variables(**settings), stdout=out, stderr=out)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(45) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def first_process(container: int) -> int | None:
    """Process 1 of a container, by its number outside; None while it is just starting."""
    try:
        for child in Path(f"/proc/{container}/task/{container}/children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE) and "\nUid:\t10001\t" in status:
                return int(child)
    except (FileNotFoundError, ProcessLookupError):
        pass  # a step of the start that has ended meanwhile
    return None


def healthy_inside(container: int) -> bool:
    """The image's own health check, as an orchestrator runs it: in the container, with its /tmp."""
    first = first_process(container)
    if first is None:
        return False
    variables_of_first = Path(f"/proc/{first}/environ").read_text().strip("\0").split("\0")
    check = ["nsenter", f"--target={first}", "--mount", "--pid", "--root", "/opt/votemill/docker/run", "healthy"]
    done = subprocess.run(
        check, env=dict(each.split("=", 1) for each in variables_of_first), capture_output=True, timeout=30, check=False
    )
    return done.returncode == 0 and b"heartbeat" in done.stdout


@pytest.fixture(scope="module", autouse=True)
def root() -> Path:
    """The file system of the image, which scripts/image test has built."""
    return Path(subprocess.run([IMAGE, "path"], capture_output=True, text=True, check=True).stdout.strip())


def test_it_holds_what_runs_and_no_tools(root: Path) -> None:
    for tool in ("curl", "wget", "gcc", "npm", "pip", "pip3"):
        assert not list(root.glob(f"**/bin/{tool}")), tool
    assert not (root / "opt/votemill/tests").exists()
    assert (root / "opt/votemill/socket_tier/web/node_modules/socket.io-client").is_dir()


def test_a_node_is_ready_for_browsers_and_leaves_when_told(tmp_path: Path) -> None:
    port, log = ports.free_ports(["node"], {}, taken=set())["node"], tmp_path / "node.log"
    # The stack's file of keys is not in the container.
    own_keys = {"SECURITY__SIGNING_KEYS_FILE": ""}
    settings = {"NODE__NAME": "image", "NODE__HOST": ports.LOOPBACK, "NODE__PORT": str(port), **own_keys}
    with running(log, "node", **settings) as process:
        wait_for(lambda: run("healthy", **settings).returncode == 0, process, log)
        library = f"http://{ports.LOOPBACK}:{port}/assets/vendor/socket.io.esm.min.js"
        with urllib.request.urlopen(library, timeout=5) as answer:
            assert answer.status == 200
        # All that with an account and a file system that let it change nothing
        inside = Path("/proc", str(first_process(process.pid)))
        status = dict(line.split(":\t", 1) for line in (inside / "status").read_text().splitlines())
        assert status["Uid"].split() == ["10001"] * 4 and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in (inside / "mounts").read_text().splitlines()]
        assert {mount[1] for mount in mounts if mount[3].startswith("rw")} >= {"/tmp"}
        assert all(mount[3].startswith("ro") for mount in mounts if mount[1] == "/")
    assert "node_stopped" in log.read_text()
    assert run("healthy", **settings).returncode == 1


@pytest.mark.parametrize("role", ["votes", "host"])
def test_a_worker_works_and_leaves_when_told(tmp_path: Path, role: str) -> None:
    log = tmp_path / "worker.log"
    with running(log, "worker", role, WORKER__NAME=f"image-{role}") as process:
        # The heartbeat's file lies in the container's own /tmp: its health check must run in there.
        wait_for(lambda: healthy_inside(process.pid), process, log)
    assert "worker_stopped" in log.read_text()


def test_the_schema_is_moved_by_the_image() -> None:
    done = run("migrate", "status")
    assert done.returncode == 0 and "0001_initial" in done.stdout and "pending" not in done.stdout, done


def test_wrong_settings_and_an_unknown_role_stop_it() -> None:
    assert run("node", NODE__PORT="seventy").returncode == EX_CONFIG
    assert run("nod").returncode == 64


def test_without_settings_of_its_own_it_is_for_production() -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
    done = subprocess.run([IMAGE, "run", "node"], env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EX_CONFIG and "refused in production" in done.stderr


def test_an_alerter_looks_at_the_rules_again_and_again_until_it_is_told_to_end(tmp_path: Path) -> None:
    log, nobody = tmp_path / "log", f"http://{ports.LOOPBACK}:9"
    settings = {"METRICS__GRAPHITE_URL": nobody, "ALERTS__ALERTMANAGER_URL": nobody, "ALERTS__INTERVAL_S": "0.5"}
    with running(log, "alerter", **settings) as alerter:
        wait_for(lambda: log.read_text().count("graphite_unread") > 1, alerter, log)
