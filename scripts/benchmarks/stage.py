"""A stack of our own, as ``scripts/up`` starts it, and the proof that it is durable."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from scripts.benchmarks.meters import Meter
from scripts.loadtest import rest
from scripts.loadtest.__main__ import read_env_file
from scripts.stack import ports, program
from scripts.stack.run_folder import ROOT, RunFolder, write_private
from scripts.stack.services import haproxy, rabbitmq

NODES = WORKERS = 2
SPARE = ("haproxy", "node-2", "worker-2", "host-worker-2")
"""Stopped while one node and one worker are measured."""
_UP_S = 300
PEER_DATABASE = "votemill_peer"


class StageFailed(Exception):
    """The stack, or what it should prove, is not as a benchmark needs it."""


@dataclass(frozen=True)
class Durability:
    """As read from the live servers."""

    fsync: str
    synchronous_commit: str
    full_page_writes: str
    votes_queue: str
    confirming_channels: int

    def check(self) -> None:
        """:raises StageFailed: something is switched off"""
        on = (self.fsync, self.synchronous_commit, self.full_page_writes) == ("on", "on", "on")
        if not on or "quorum" not in self.votes_queue or not self.confirming_channels:
            raise StageFailed(f"durability is not fully on: {self}")

    def __str__(self) -> str:
        return (
            f"fsync={self.fsync} synchronous_commit={self.synchronous_commit} "
            f"full_page_writes={self.full_page_writes}; queue {self.votes_queue}; "
            f"{self.confirming_channels} channels with publisher confirms"
        )


class Stage:
    """A running stack in ``run_dir``, with ``more`` options of ``scripts/up``; a context manager that empties it first
    and stops everything at the end."""

    def __init__(self, run_dir: Path, *more: str) -> None:
        self.folder = RunFolder(run_dir)
        self._more = more
        self._rooms = 0

    def __enter__(self) -> Stage:
        run = ["--run-dir", str(self.folder.path)]
        _command("scripts/down", "--quiet", *run)
        _command(".venv/bin/python", "-m", "scripts.stack.wipe", *run)
        counts = ["--nodes", str(NODES), "--workers", str(WORKERS), "--host-workers", str(WORKERS)]
        try:
            _command(
                "scripts/up",
                "--detach",
                "--unlimited",
                "--port",
                str(ports.next_free(24400)),
                *counts,
                *self._more,
                *run,
            )
            env = read_env_file(self.folder.env_file)
            self.database_url = env["DATABASE_URL"]
            self.nodes = [rest.parse_base(url) for url in env["NODE_URLS"].split(",")]
            self.stop(SPARE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _command("scripts/down", "--quiet", "--run-dir", str(self.folder.path))

    def stop(self, names: Sequence[str]) -> None:
        self._control("stop", names)

    def start(self, names: Sequence[str]) -> None:
        """Start processes again; returns when the nodes among them answer and the workers consume."""
        self._control("start", names)
        for name in names:
            if name.startswith("node-"):
                self._wait_for_node(self.nodes[int(name.removeprefix("node-")) - 1])
        time.sleep(3)  # Workers have no address to ask; they consume a second or two after they have started.

    def restart_with(self, name: str, variables: Mapping[str, str]) -> None:
        """Start a process anew, with other variables than the stack's."""
        file = program.launch_file(self.folder, name)
        description = json.loads(file.read_text())
        description["env"] |= variables
        write_private(file, json.dumps(description))
        self.stop([name])
        self.start([name])

    def addresses(self, nodes: int = 1) -> list[tuple[str, int]]:
        return [(base.host, base.port) for base in self.nodes[:nodes]]

    def meter(self, name: str) -> Meter:
        """Of one of the stack's processes: node-1, worker-1, postgres, rabbitmq, redis, ..."""
        return Meter(int((self.folder.pids / f"{name}.pid").read_text()))

    def open_rooms(self, count: int) -> list[rest.Room]:
        """New polls, open for voting."""
        self._rooms += count
        return [rest.open_room(self.nodes[0], self._rooms - count + number, 4) for number in range(1, count + 1)]

    def close_rooms(self, rooms: Sequence[rest.Room]) -> None:
        for room in rooms:
            rest.change_state(self.nodes[0], room, "closed")

    def query(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """One statement of the application's role, committed at once."""
        return _query(self.database_url, statement, parameters)

    def batches_stored(self) -> int:
        """How many messages with votes the workers have stored so far."""
        return int(self.query("SELECT count(*) FROM applied_batches")[0][0])

    def administer(self, statement: str) -> list[tuple[Any, ...]]:
        """One statement of PostgreSQL's administrator."""
        parts = urlsplit(self.database_url)
        password = self.folder.secret("database-admin-password")
        return _query(
            urlunsplit(parts._replace(netloc=f"postgres:{password}@{parts.hostname}:{parts.port}")), statement
        )

    def peer_database(self) -> str:
        """A database of the peer's own on the same server; its URL."""
        if not self.query("SELECT 1 FROM pg_database WHERE datname = %s", (PEER_DATABASE,)):
            self.query(f"CREATE DATABASE {PEER_DATABASE}")
        return urlunsplit(urlsplit(self.database_url)._replace(path=f"/{PEER_DATABASE}"))

    def durability(self) -> Durability:
        fsync, commit, pages = (
            str(self.query(f"SHOW {name}")[0][0]) for name in ("fsync", "synchronous_commit", "full_page_writes")
        )
        queues = [line.split("\t") for line in self._ask_broker("list_queues", "name", "type", "durable")]
        votes = next((line for line in queues if line[0] == "votes"), ["votes", "missing", ""])
        confirming = [line for line in self._ask_broker("list_channels", "confirm") if line.strip() == "true"]
        durable = "durable" if votes[2] == "true" else "NOT durable"
        return Durability(fsync, commit, pages, f"{votes[0]}: {votes[1]}, {durable}", len(confirming))

    def _ask_broker(self, *arguments: str) -> list[str]:
        with tempfile.TemporaryFile("w+") as out:
            if rabbitmq.run_ctl(self.folder, ["--quiet", "--no-table-headers", *arguments], out):
                raise StageFailed(f"the broker does not answer {arguments[0]}")
            out.seek(0)
            return out.read().splitlines()

    def _control(self, action: str, names: Sequence[str]) -> None:
        _command("scripts/ctl", action, *names, "--run-dir", str(self.folder.path))

    @staticmethod
    def _wait_for_node(base: rest.Base) -> None:
        gives_up_at = time.monotonic() + 60
        while time.monotonic() < gives_up_at:
            if haproxy.answers_ready(base.port):
                return
            time.sleep(0.2)
        raise StageFailed(f"{base.url} did not become ready")


def _query(
    url: str, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def _command(*words: str) -> None:
    done = subprocess.run(
        [str(ROOT / words[0]), *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=_UP_S, check=False
    )
    if done.returncode:
        raise StageFailed(f"{' '.join(words[:2])}: {(done.stdout + done.stderr).strip()[-600:]}")
