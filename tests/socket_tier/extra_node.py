"""A node beside those of the stack, on the same servers, with settings of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.stack import ports
from scripts.stack.services.haproxy import answers_ready
from scripts.stack.supervision import wait_until
from tests.socket_tier.browsers import ROOT

READY_WITHIN_S = 30


class ExtraNode:
    """Runs from the making to ``stop``. ``settings`` are named as the environment names them, without ``VOTEMILL_``.

    :raises StepFailed: it does not become ready
    """

    def __init__(self, name: str, log: Path, program: tuple[str, ...] = ("-m", "socket_tier"), **settings: str) -> None:
        port = ports.any_free()
        own = {"NODE__NAME": name, "NODE__HOST": ports.LOOPBACK, "NODE__PORT": str(port)} | settings
        env = os.environ | {f"VOTEMILL_{key}": value for key, value in own.items()} | {"PYTHONPATH": str(ROOT)}
        self.url = f"http://{ports.LOOPBACK}:{port}"
        with log.open("w") as out:
            self._process = subprocess.Popen([sys.executable, *program], env=env, cwd=ROOT, stdout=out, stderr=out)
        try:
            wait_until(lambda: answers_ready(port), READY_WITHIN_S, f"{name} is not ready", log, give_up=self._is_dead)
        except BaseException:
            self.stop()
            raise

    def pid(self) -> int | None:
        """None once it is dead."""
        return None if self._is_dead() else self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _is_dead(self) -> bool:
        return self._process.poll() is not None
