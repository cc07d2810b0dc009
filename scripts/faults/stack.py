"""A running stack as its breaker sees it: addresses, victims, and a way back to health."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pika
import pika.exceptions
import psycopg2
import redis

from scripts.faults.links import Control
from scripts.faults.victim import Victim, kill_all
from scripts.loadtest.rest import Base, parse_base
from scripts.stack import processes
from scripts.stack.plan import SERVERS
from scripts.stack.run_folder import RunFolder
from scripts.stack.services.haproxy import answers_ready

_OURS = ("node", "worker", "host-worker")
_NO_VICTIMS = ("haproxy", "links")  # what stands for the network


class NotRunning(Exception):
    """There is no stack in the run folder."""


class RunningStack:
    """What runs in one run folder.

    :raises NotRunning: nothing does
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.folder = RunFolder(run_dir)
        self.env = read_env(self.folder.env_file)
        if not self.env:
            raise NotRunning(f"nothing runs in {self.folder.path}; scripts/up starts it")
        self.dsn = self.env["DATABASE_URL"]
        self.base = parse_base(self.env["BASE_URL"])
        self.nodes = [parse_base(url) for url in self.env["NODE_URLS"].split(",")]
        control, *self.link_names = self.env.get("LINKS", "0").split()
        self.links = Control(int(control))
        self.victims = {name: Victim(self.folder, name, self._answers(name)) for name in self._names()}

    def __getitem__(self, name: str) -> Victim:
        return self.victims[name]

    def of_kind(self, kind: str) -> list[Victim]:
        """``node``, ``worker`` (for votes), ``host-worker``, or a server's name."""
        return [victim for name, victim in self.victims.items() if _kind(name) == kind]

    def ours(self) -> list[Victim]:
        """Nodes and workers."""
        return [victim for name, victim in self.victims.items() if _kind(name) in _OURS]

    def mend(self) -> None:
        """Thaw and start whatever is frozen or down, and end halved links; returns when everything answers.

        :raises StepFailed: something does not come back
        """
        if self.link_names:
            self.links.mend()
        for victim in self.victims.values():
            victim.thaw()
        for victim in self.victims.values():
            victim.bring_back()

    def healthy(self) -> bool:
        """Every node is ready."""
        return all(answers_ready(node.port) for node in self.nodes)

    def kill_everything(self) -> None:
        """kill -9 of the supervisor, of all three servers and of all our processes, in one breath."""
        supervisor = int((self.folder.processes / "supervisord.pid").read_text())
        trees = [pid for victim in self.victims.values() for pid in victim.tree()]
        kill_all(list(dict.fromkeys([supervisor, *trees, *processes.marked(str(self.folder.path))])))

    def shape(self) -> list[str]:
        """The options of scripts/up that make the same stack again."""
        counts = {kind: len(self.of_kind(kind)) for kind in _OURS}
        options = ["--run-dir", str(self.folder.path), "--port", str(self.base.port), "--detach"]
        options += ["--nodes", str(counts["node"]), "--workers", str(counts["worker"])]
        options += ["--host-workers", str(counts["host-worker"])]
        unlimited = read_env(self.folder.process_env_file).get("VOTEMILL_LIMITS__UNLIMITED") == "true"
        known = {
            "--replica": "REPLICA_URL",
            "--synchronous": "SYNCHRONOUS",
            "--backup": "PGBACKREST_CONFIG",
            "--metrics": "GRAPHITE_URL",
            "--tls": "TLS",
            "--accounts": "ACCOUNTS",
            "--links": "LINKS",
        }
        return options + ["--unlimited"] * unlimited + [option for option, name in known.items() if name in self.env]

    def given_settings(self) -> dict[str, str]:
        """Addresses of servers that are not this stack's own, as settings for scripts/up."""
        ours = {f"VOTEMILL_{SERVERS[name].upper()}__URL" for name in self.victims if name in SERVERS}
        known = read_env(self.folder.process_env_file)
        given = {f"VOTEMILL_{section.upper()}__URL" for section in SERVERS.values()} - ours
        return {name: known[name] for name in (*given, "VOTEMILL_ENV")}

    def _names(self) -> list[str]:
        """Servers first: whatever waits for them comes back after them."""
        names = sorted(file.stem for file in self.folder.processes.glob("*.json"))
        servers = [name for name in SERVERS if name in names]
        return servers + [name for name in names if name not in servers and name not in _NO_VICTIMS]

    def _answers(self, name: str) -> Callable[[], bool]:
        if name == "postgres":
            return lambda: database_answers(self.dsn)
        if name == "standby":
            return lambda: database_answers(self.env["REPLICA_URL"])
        if name == "redis":
            return lambda: redis_answers(self.env["REDIS_URL"])
        if name == "rabbitmq":
            return lambda: broker_answers(self.env["AMQP_URL"])
        if _kind(name) == "node":
            base = self._node(name)
            return lambda: answers_ready(base.port)
        return lambda: True

    def _node(self, name: str) -> Base:
        return self.nodes[int(name.rpartition("-")[2]) - 1]


def database_answers(dsn: str) -> bool:
    """Whether somebody can log in."""
    try:
        psycopg2.connect(dsn, connect_timeout=2).close()
    except psycopg2.Error:
        return False
    return True


def redis_answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def broker_answers(urls: str) -> bool:
    """Whether one of the brokers lets somebody log in."""
    for url in urls.split(","):
        parameters = pika.URLParameters(url)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 2
        try:
            pika.BlockingConnection(parameters).close()
        except (pika.exceptions.AMQPError, OSError):
            continue
        return True
    return False


def _kind(name: str) -> str:
    stem, _, number = name.rpartition("-")
    return stem if number.isdigit() else name


def read_env(file: Path) -> dict[str, str]:
    """The variables in a file of NAME=value lines as a shell reads them; none when there is no file."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (shlex.split(line)[0].partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}
