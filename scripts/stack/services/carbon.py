"""The private carbon: takes figures from StatsD and keeps them in Whisper's files."""

from __future__ import annotations

import socket
from pathlib import Path

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.run_folder import ROOT

NAME = "carbon"
ACCOUNT = "_graphite"
RULES = ROOT / "docker" / "graphite"

# Behind the rules for containers; what stands here holds.
OWN = """
[cache:a]
STORAGE_DIR = {data}
LOCAL_DATA_DIR = {data}/whisper
PID_DIR = {data}
LINE_RECEIVER_INTERFACE = {host}
LINE_RECEIVER_PORT = {port}
CACHE_QUERY_INTERFACE = {host}
CACHE_QUERY_PORT = {query_port}
"""


def data_folder(plan: Plan) -> Path:
    return make_data_folder(plan.folder, NAME, account(ACCOUNT))


def program(plan: Plan) -> Program:
    data = data_folder(plan)
    argv = ["carbon-cache", f"--config={data}/carbon.conf", "--nodaemon", "start"]
    return Program(NAME, "server", argv, server_env(data), cwd=data, user=account(ACCOUNT))


def prepare(plan: Plan) -> None:
    """Write the rules where carbon's account can read them."""
    data = data_folder(plan)
    own = OWN.format(data=data, host=ports.LOOPBACK, port=plan.ports[NAME], query_port=plan.ports["carbon-query"])
    write_for_server(data / "carbon.conf", (RULES / "carbon.conf").read_text() + own)
    for name in ("storage-schemas.conf", "storage-aggregation.conf"):
        write_for_server(data / name, (RULES / name).read_text())
    # One that was killed has left it behind, and its number may be somebody else's by now.
    (data / "carbon-cache-a.pid").unlink(missing_ok=True)


def is_ready(plan: Plan) -> bool:
    """Whether it takes connections."""
    try:
        with socket.create_connection((ports.LOOPBACK, plan.ports[NAME]), timeout=1):
            return True
    except OSError:
        return False
