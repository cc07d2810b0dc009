"""The private StatsD, from npm: adds up what nodes and workers count, and hands it to carbon every ten seconds."""

from __future__ import annotations

import socket

from scripts.stack import ports
from scripts.stack.plan import Plan, server_env
from scripts.stack.program import Program
from scripts.stack.services import carbon

NAME = "statsd"


def program(plan: Plan) -> Program:
    """Figures come by UDP; on the same port, by TCP, it tells how it is."""
    port = str(plan.ports[NAME])
    env = server_env(plan.folder.path) | {
        "STATSD_ADDRESS": ports.LOOPBACK,
        "STATSD_PORT": port,
        "STATSD_MANAGEMENT_PORT": port,
        "GRAPHITE_HOST": ports.LOOPBACK,
        "GRAPHITE_PORT": str(plan.ports[carbon.NAME]),
    }
    argv = ["node", str(carbon.RULES / "node_modules" / "statsd" / "stats.js"), str(carbon.RULES / "statsd.js")]
    return Program(NAME, "server", argv, env)


def prepare(plan: Plan) -> None:
    """Nothing to make."""


def is_ready(plan: Plan) -> bool:
    """Whether it says that it is up."""
    try:
        with socket.create_connection((ports.LOOPBACK, plan.ports[NAME]), timeout=1) as connection:
            connection.sendall(b"health\n")
            return b"up" in connection.recv(100)
    except OSError:
        return False
