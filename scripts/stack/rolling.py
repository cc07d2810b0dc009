"""scripts/rolling-restart: restarts workers and nodes one after the other, with the code of this checkout or another.

Workers come first: what a new node sends, no old worker may know. The next process has its turn when the one before it
does its work again: a worker takes messages, a node is ready and the balancer sends browsers to it. When one doesn't
come back nothing else is touched.

Processes keep the settings that scripts/up gave them, and the checkout that it belongs to stays in use: it supervises.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.wire.names import HOST_QUEUE, VOTES_QUEUE
from scripts.faults.stack import read_env
from scripts.stack.bring_up import READY_WITHIN_S, consumers, install_npm
from scripts.stack.program import launch_file
from scripts.stack.progress import StepFailed, say, step
from scripts.stack.run_folder import ROOT, RunFolder, write_private
from scripts.stack.services import haproxy
from scripts.stack.supervision import Supervisor, wait_until

_ORDER = ("worker", "host-worker", "node")
_LOCK = "requirements.lock"
_BALANCED_WITHIN_S = 30
_INSTALLED_WITHIN_S = 300


class Process:
    """A node or worker of a running stack, as its launch file describes it."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.name = name
        self.kind = name.rpartition("-")[0]
        self._broker = read_env(folder.env_file)["AMQP_URL"]
        self._file = launch_file(folder, name)
        self._description: dict[str, Any] = json.loads(self._file.read_text())
        self._env: dict[str, str] = self._description["env"]

    def use(self, code: Path, python: str) -> None:
        """Run this code from the next start on."""
        self._env["PYTHONPATH"] = str(code)
        self._description |= {"cwd": str(code), "argv": [python, *self._description["argv"][1:]]}
        write_private(self._file, json.dumps(self._description, indent=2))

    def readiness(self, *, works: bool) -> Callable[[], bool]:
        """Tells after a restart whether the process works again. Called before it; does it work now?"""
        if self.kind == "node":
            port = int(self._env["VOTEMILL_NODE__PORT"])
            return lambda: haproxy.answers_ready(port)
        queue = VOTES_QUEUE if self.kind == "worker" else HOST_QUEUE
        wanted = consumers(self._broker, queue) + (0 if works else 1)
        return lambda: consumers(self._broker, queue) >= wanted


class RollingRestart:
    """``code`` is the checkout whose code runs afterwards.

    :raises StepFailed: it is none, or its packages can't be installed
    """

    def __init__(self, folder: RunFolder, supervisor: Supervisor, code: Path) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._code = code
        if not all((code / file).exists() for file in ("socket_tier/__main__.py", "workers/__main__.py", _LOCK)):
            raise StepFailed(f"{code} is no checkout of Votemill")
        self._python = interpreter(code, folder)
        web = code / "socket_tier" / "web"
        if (web / "package.json").exists():
            install_npm("browser library", web, folder)

    def order(self, names: Sequence[str]) -> list[Process]:
        """The processes of these names, or all that nobody has stopped: workers for votes, other workers, nodes.

        :raises StepFailed: a name is none of those
        """
        on = [name for name, state in self._supervisor.states().items() if state != "STOPPED"]
        known = {name: Process(self._folder, name) for name in on if name.rpartition("-")[0] in _ORDER}
        if unknown := [name for name in names if name not in known]:
            raise StepFailed(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        kinds = Counter(process.kind for process in known.values())
        chosen = sorted((known[name] for name in names or known), key=lambda process: _ORDER.index(process.kind))
        for process in chosen:
            if kinds[process.kind] == 1:
                say(f"! {process.name} has no second beside it: what needs it waits while it restarts")
        return chosen

    def restart(self, process: Process) -> None:
        """Stop it, start it with the code, and wait until it works again.

        :raises StepFailed: it does not
        """
        name = process.name
        wait_until(lambda: self._state(name) != "STARTING", READY_WITHIN_S, f"{name} neither runs nor ends")
        is_ready = process.readiness(works=self._state(name) == "RUNNING")
        balancer = _BalancerLog(self._folder)
        with step(name):
            try:
                self._supervisor.stop_programs([name])
                status = self._supervisor.exit_status(name)
            finally:  # also when somebody presses Ctrl-C
                process.use(self._code, self._python)
                self._supervisor.start_program(name)
            if status:
                say(f"! {name} did not stop in order (exit status {status})")
            log = self._folder.log(name)
            wait_until(is_ready, READY_WITHIN_S, f"{name} did not become ready", log, lambda: self._is_dying(name))
            if process.kind == "node":
                problem = f"the balancer sends nobody to {name}"
                wait_until(lambda: balancer.sends_to(name), _BALANCED_WITHIN_S, problem, self._folder.log(haproxy.NAME))

    def _is_dying(self, name: str) -> bool:
        # The servers are up: nothing that ends right after its start only waits for them.
        return self._state(name) in ("BACKOFF", "FATAL")

    def _state(self, name: str) -> str:
        return self._supervisor.states()[name]


class _BalancerLog:
    """What the balancer says of its servers from now on."""

    def __init__(self, folder: RunFolder) -> None:
        self._log = folder.log(haproxy.NAME)
        self._read = self._log.stat().st_size if self._log.exists() else 0

    def sends_to(self, node: str) -> bool:
        """It has not taken the node out, or has taken it in again."""
        if not self._log.exists():
            return True
        said = self._log.read_bytes()
        said = said[self._read :] if len(said) >= self._read else said  # a full log begins anew
        _, known, last = said.rpartition(f"nodes/{node} is ".encode())
        return not known or last.startswith(b"UP")


def interpreter(code: Path, folder: RunFolder) -> str:
    """The Python that has the packages of this code.

    :raises StepFailed: they can't be installed
    """
    if (code / _LOCK).read_bytes() == (ROOT / _LOCK).read_bytes():
        return sys.executable
    log = folder.log("rolling-restart")
    with step(f"Python packages of {code}", announce=True), log.open("w") as out:
        done = subprocess.run(
            ["bash", "-c", '. "$0/scripts/bootstrap"', code],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=_INSTALLED_WITHIN_S,
            check=False,
        )
    if done.returncode:
        raise StepFailed(f"the packages of {code} could not be installed", log)
    return str(code / ".venv" / "bin" / "python")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/rolling-restart", description="Restart workers and nodes one by one, without anybody's notice."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="node-1, worker-1, host-worker-1, ... (default: all)")
    parser.add_argument(
        "--from", dest="code", type=Path, default=ROOT, help="checkout whose code they run then (default: this one)"
    )
    parser.add_argument("--run-dir", default=".run", help="the stack's run folder (default %(default)s)")
    options = parser.parse_args()
    folder = RunFolder(options.run_dir)
    supervisor = Supervisor(folder)
    if not supervisor.is_running():
        say(f"✗ nothing runs in {options.run_dir}; scripts/up starts it")
        return 3
    try:
        with folder.locked():
            rolling = RollingRestart(folder, supervisor, options.code.resolve())
            for process in rolling.order(options.names):
                rolling.restart(process)
    except StepFailed as failure:
        say(f"✗ {failure}\nAll others were left as they are. The same with --from and the earlier code goes back.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
