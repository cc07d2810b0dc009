"""Where everything of one stack lies: pids, logs, data, secrets, and what was chosen for it the first time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.stack.progress import StepFailed

ROOT = Path(__file__).resolve().parents[2]
LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes; supervisord makes the socket under a longer temporary name first.


class RunFolder:
    """One stack's folder. Making the object touches nothing; ``create`` makes the folders."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.pids = self.path / "pids"
        self.logs = self.path / "log"
        self.data = self.path / "data"
        self.processes = self.path / "processes"
        self.secrets = self.path / "secrets"
        self.env_file = self.path / "env"
        self.process_env_file = self.path / "process.env"
        self.supervisor_conf = self.processes / "supervisord.conf"
        self.ready_mark = self.path / "ready"

    def create(self) -> None:
        """Make the folders, those with secrets for the owner only."""
        for folder in (self.path, self.pids, self.logs, self.data):
            folder.mkdir(parents=True, exist_ok=True)
        for private in (self.processes, self.secrets):
            private.mkdir(mode=0o700, exist_ok=True)

    def log(self, name: str) -> Path:
        """The file with a process's or a step's output."""
        return self.logs / f"{name}.log"

    def secret(self, name: str) -> str:
        """A random word that is made once and then stays the same for this folder."""
        file = self.secrets / name
        if not file.exists():
            write_private(file, secrets.token_hex(24))
        return file.read_text().strip()

    @property
    def identity(self) -> str:
        """A short name for this folder that differs from every other folder's on this machine."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:10]

    def remembered(self) -> dict[str, Any]:
        """What earlier runs chose (ports, the broker's node name); empty for a new folder."""
        try:
            known: dict[str, Any] = json.loads((self.path / "state.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return known

    def remember(self, **choices: Any) -> None:
        """Keep choices for later runs, beside those that are kept already."""
        write_private(self.path / "state.json", json.dumps(self.remembered() | choices, indent=2))

    def supervisor_socket(self) -> Path:
        """A path for supervisord's socket that is short enough, in the run folder where that is possible."""
        inside = self.path / "supervisor.sock"
        if len(str(inside)) <= LONGEST_SOCKET_PATH:
            return inside
        known = self.remembered().get("socket_folder")
        if not (known and Path(known).is_dir()):
            known = tempfile.mkdtemp(prefix="votemill-")
            self.remember(socket_folder=known)
        return Path(known) / "supervisor.sock"

    @contextmanager
    def locked(self, patience_s: float = 90) -> Iterator[None]:
        """Hold the folder, so that only one up or down works on it at a time.

        :raises StepFailed: another command held it for longer than ``patience_s``
        """
        self.path.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience_s
        with (self.path / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StepFailed(f"another scripts/up or scripts/down is at work on {self.path}") from None
                    time.sleep(0.2)
            yield


def write_private(file: Path, text: str) -> None:
    """Replace a file in one step with one that only its owner can read."""
    temporary = file.with_name(file.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    temporary.replace(file)


def write_env(file: Path, variables: Mapping[str, str]) -> None:
    """Write variables as NAME=value lines that a shell can source; only the owner can read them."""
    write_private(file, "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))
