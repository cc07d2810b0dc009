"""A running stack with a voter in it, which faults are injected into."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import psycopg2
import psycopg2.extensions
import redis

from models.runtime.graphs import target
from scripts.faults.guest import Guest
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from scripts.loadtest.connection import ConnectionLost
from scripts.stack.program import launch_file
from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until

_VOTE_EVERY_S = 0.3
_ENDS_WITHIN_S = 40
_CALM_WITHIN_S = 240
_FIGURES = "level workers.queues.votes.consumers"


class Bench:
    """Use it as a context: meanwhile somebody votes, so that there is something to measure."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.node = stack.nodes[0]
        self.room = rest.open_room(self.node, 1, 2)
        self._done = threading.Event()
        self._voter = threading.Thread(target=self._vote, name="voter", daemon=True)

    def __enter__(self) -> Bench:
        self._voter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._voter.join(_ENDS_WITHIN_S)

    def _vote(self) -> None:
        """Again and again, whatever breaks; after a cut or a refusal as somebody else."""
        while not self._done.is_set():
            with suppress(ConnectionLost, OSError, TimeoutError), closing(Guest(self.node)) as guest:
                joined = guest.join(self.room.code, f"voter {time.time():.3f}").success
                option = 0
                while joined and not self._done.wait(_VOTE_EVERY_S):
                    guest.vote(self.room.code, option := 1 - option)
            self._done.wait(1)

    def firing(self) -> set[str]:
        """The alerts that Alertmanager knows of."""
        url = f"{self.stack.env['ALERTMANAGER_URL']}/api/v2/alerts"
        with urllib.request.urlopen(url, timeout=5) as answer:  # always http  # nosec B310
            return {alert["labels"]["alertname"] for alert in json.load(answer)}

    def calm_down(self) -> None:
        """Return when figures have come, and nothing fires but what always does.

        :raises StepFailed: something goes on
        """
        wait_until(lambda: self._has_figures() and self.firing() == {"DeadMansSwitch"}, _CALM_WITHIN_S, "alerts go on")

    def _has_figures(self) -> bool:
        query = urlencode({"target": target(_FIGURES, "votemill"), "from": "-30s", "format": "json"})
        with urllib.request.urlopen(f"{self.stack.env['GRAPHITE_URL']}/render?{query}", timeout=10) as answer:  # nosec B310
            return any(value is not None for series in json.load(answer) for value, _ in series["datapoints"])

    @contextmanager
    def superuser(self) -> Iterator[psycopg2.extensions.cursor]:
        """A cursor whose transaction is rolled back in the end, unless a statement commits."""
        password = self.stack.folder.secret("database-admin-password")
        connection = psycopg2.connect(self.stack.dsn, user="postgres", password=password, connect_timeout=5)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def change(self, sql: str, *parameters: Any) -> None:
        with self.superuser() as cursor:
            cursor.execute(sql, parameters)
            cursor.connection.commit()

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        client = redis.Redis.from_url(self.stack.env["REDIS_URL"], socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def env_of(self, name: str) -> dict[str, str]:
        """What one of the stack's processes is given."""
        env: dict[str, str] = json.loads(launch_file(self.stack.folder, name).read_text())["env"]
        return env

    @contextmanager
    def beside(self, module: str, *arguments: str, env: Mapping[str, str], out: IO[Any]) -> Iterator[None]:
        """A process of ours beside the stack's."""
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, env=dict(env), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_ENDS_WITHIN_S)

    def log(self, name: str) -> IO[str]:
        return self.stack.folder.log(f"drill-{name}").open("w")

    def script(self, *command: str) -> None:
        """One of ours, on this stack."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
        folder = str(self.stack.folder.path)
        with self.log("scripts") as out:
            subprocess.run(
                [*command, "--run-dir", folder], env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                timeout=120, check=True,
            )  # fmt: skip


@contextmanager
def meanwhile(work: Callable[[], object], every_s: float, threads: int = 1) -> Iterator[None]:
    """Do it again and again, with pauses, until the context ends."""
    done = threading.Event()

    def again() -> None:
        while not done.is_set():
            work()
            done.wait(every_s)

    running = [threading.Thread(target=again, daemon=True) for _ in range(threads)]
    for each in running:
        each.start()
    try:
        yield
    finally:
        done.set()
        for each in running:
            each.join(_ENDS_WITHIN_S)


def as_root(*command: str | Path) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*prefix, *map(str, command)], check=True, timeout=30, stdin=subprocess.DEVNULL)


def settings_for(webhook_url: str, disk: Path) -> dict[str, str]:
    """For scripts/up, as in its environment without ``VOTEMILL_``: a channel, and a disk that can be filled."""
    return {
        "ALERTS__WEBHOOK_URL": webhook_url,
        "ALERTS__WATCHDOG_URL": webhook_url,
        "METRICS__WATCH_FOLDERS": f"@json {json.dumps([str(disk)])}",
    }


SHORT_INTERVALS = {
    "ALERTS__INTERVAL_S": "2",
    "ALERTS__HASTE": "5",
    "ALERTS__GROUP_WAIT_S": "0.1",
    "ALERTS__GROUP_INTERVAL_S": "1",
}
