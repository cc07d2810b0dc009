"""PostgreSQL servers that follow one another and are promoted, and an address that leads to one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import psycopg2

from scripts.faults.links import Link
from scripts.faults.victim import kill_all
from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder
from scripts.stack.plan import account, server_env
from scripts.stack.run_folder import RunFolder
from scripts.stack.services import postgres
from scripts.stack.supervision import wait_until

READY_WITHIN_S = 60


class Address:
    """Where clients connect. Its target moves; connections stay where they lead."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="address", daemon=True)
        self._thread.start()
        self.port = ports.any_free()
        self._link = Link(self.port, ("127.0.0.1", 1))
        self._do(self._link.open())
        self.url = f"postgresql://votemill@127.0.0.1:{self.port}/votemill"

    def move(self, port: int) -> None:
        """New connections lead to that server on this machine."""
        self._link.target = ("127.0.0.1", port)

    def close(self) -> None:
        self._do(self._link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class Server:
    """One PostgreSQL server, which trusts whoever comes over the loopback interface."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._user = account("postgres")
        self._data = make_data_folder(folder, name, self._user)
        self._log = folder.log(name)
        self.port = ports.any_free()
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """An empty primary with the role and database of the application."""
        self._run("initdb", "-D", "cluster", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()
        self.ask("CREATE ROLE votemill LOGIN CREATEDB", database="postgres")
        self.ask("CREATE DATABASE votemill OWNER votemill", database="postgres")

    def follow(self, primary: Server) -> None:
        """A copy that streams from there, and without whose disk nothing is committed there."""
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        self._run("pg_basebackup", "-D", "cluster", "-R", "-X", "stream", "--checkpoint=fast", *source)
        self.start()
        streams = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: primary.ask(streams), READY_WITHIN_S, "the standby does not stream", self._log)
        primary.configure("synchronous_standby_names", "*")
        synchronous = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: primary.ask(synchronous), READY_WITHIN_S, "the standby is not synchronous")

    def start(self) -> None:
        command = [
            str(postgres.binary("postgres")),
            "-D",
            "cluster",
            *postgres.options(self.port, shared_buffers="32MB"),
        ]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **self._as_its_own()
            )
        wait_until(self._answers, READY_WITHIN_S, "PostgreSQL does not answer", self._log)

    def configure(self, name: str, value: str) -> None:
        self.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        self.ask("SELECT pg_reload_conf()")

    def ask(self, sql: str, database: str = "votemill") -> Any:
        """As the superuser: the first value of the first row; None without rows. Commits by itself."""
        url = f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        own = "-c synchronous_commit=local -c default_transaction_read_only=off -c statement_timeout=30000"
        connection = psycopg2.connect(url, connect_timeout=5, options=own)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                row = cursor.fetchone() if cursor.description else None
                return row and row[0]
        finally:
            connection.close()

    def freeze(self) -> None:
        """Its connections stay open and nothing answers."""
        for pid in self._tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        kill_all(self._tree())
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    def _tree(self) -> list[int]:
        if self._process is None:
            return []
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def _answers(self) -> bool:
        try:
            return bool(self.ask("SELECT true", database="postgres"))
        except psycopg2.OperationalError:
            return False

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(postgres.binary(program)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **self._as_its_own())
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_its_own(self) -> dict[str, Any]:
        groups = {"group": self._user, "extra_groups": []} if self._user else {}
        return {"cwd": self._data, "env": server_env(self._data), "user": self._user, **groups}
