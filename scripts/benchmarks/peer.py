"""The peer: ``scripts/peers/node_live_poll.js`` on the stage's PostgreSQL, in a database of its own."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
from pathlib import Path

from scripts.benchmarks.meters import Meter
from scripts.stack import ports
from scripts.stack.run_folder import ROOT

FOLDER = ROOT / "scripts" / "peers"
MODES = ("noop", "insert", "tick", "full")
_READY_S = 30


class PeerFailed(Exception):
    """npm could not install it, or it did not start."""


def available() -> bool:
    """Whether a Node.js is there to run it."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def install(log: Path) -> None:
    """What package-lock.json names, once.

    :raises PeerFailed:
    """
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".bench-lock.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    with log.open("w") as out:
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        )
    if done.returncode:
        raise PeerFailed(f"npm could not install the peer; see {log}")
    shutil.copyfile(lock, installed)


class Peer:
    """One running peer; a context manager. It ends with us whatever happens: its stdin is a pipe of ours."""

    def __init__(self, mode: str, database_url: str, log: Path, *, prepared: bool = False) -> None:
        self.mode = mode
        self.port = ports.next_free(25400)
        self._database_url = database_url
        self._log = log
        self._options = ["prepared"] if prepared else []

    def __enter__(self) -> Peer:
        env = {"PATH": os.environ.get("PATH", os.defpath), "NODE_ENV": "production", "DATABASE_URL": self._database_url}
        with self._log.open("a") as errors:
            self._process = subprocess.Popen(
                ["node", "node_live_poll.js", self.mode, str(self.port), *self._options],
                cwd=FOLDER,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.meter = Meter(self._process.pid)
        if not self._says_ready():
            self.__exit__()
            raise PeerFailed(f"the peer did not start in mode {self.mode}; see {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    @property
    def address(self) -> tuple[str, int]:
        return (ports.LOOPBACK, self.port)

    def _says_ready(self) -> bool:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(_READY_S)) and self._process.stdout.readline().strip() == "ready"
