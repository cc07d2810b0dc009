"""The private RabbitMQ: a node of its own name, one user of ours, and the queue limits as policies."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import IO

import pika
import pika.exceptions

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.run_folder import ROOT, RunFolder

NAME = "rabbitmq"
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
POLICIES = ROOT / "docker" / "rabbitmq" / "policies.json"

CONFIGURATION = """\
listeners.tcp.default = {host}:{port}
load_definitions = {data}/definitions.json
log.console = true
log.console.level = info
log.file = false
# Alarms that suit a machine that does other things too.
disk_free_limit.absolute = 200MB
vm_memory_high_watermark.relative = 0.4
# The default of 512 MB per write-ahead file would keep that much of the quorum queues in memory.
raft.wal_max_size_bytes = 67108864
"""


def program(plan: Plan) -> Program:
    """beam.smp itself: with RABBITMQ_ALLOW_INPUT the start script executes Erlang in its own place."""
    user = account("rabbitmq")
    data = make_data_folder(plan.folder, NAME, user)
    env = environment(plan.broker_node, data) | {
        "RABBITMQ_NODE_PORT": str(plan.ports[NAME]),
        "RABBITMQ_NODE_IP_ADDRESS": ports.LOOPBACK,
        "RABBITMQ_DIST_PORT": str(plan.ports["rabbitmq-dist"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_ALLOW_INPUT": "1",
    }
    return Program(NAME, "server", [str(SCRIPTS / "rabbitmq-server")], env, cwd=data, user=user, steady_after_s=2)


def prepare(plan: Plan) -> None:
    """Write the configuration and the definitions, which RabbitMQ imports before it opens its port."""
    data = make_data_folder(plan.folder, NAME, account("rabbitmq"))
    texts = {
        "rabbitmq.conf": CONFIGURATION.format(host=ports.LOOPBACK, port=plan.ports[NAME], data=data),
        "definitions.json": json.dumps(definitions(plan.folder.secret("broker-password")), indent=2),
        "enabled_plugins": "[].\n",
    }
    for name, text in texts.items():
        write_for_server(data / name, text)


def is_ready(plan: Plan) -> bool:
    """Whether our user can log in. RabbitMQ listens only after it has booted and imported the definitions."""
    if ports.is_free(plan.ports[NAME]):
        return False
    parameters = pika.URLParameters(plan.urls["broker"])
    parameters.socket_timeout = parameters.blocked_connection_timeout = 3
    try:
        pika.BlockingConnection(parameters).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


def environment(broker_node: str, data: Path) -> dict[str, str]:
    """What the server and rabbitmqctl need to agree on node name, cookie and places."""
    return server_env(data) | {
        "RABBITMQ_NODENAME": broker_node,
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "log"),
        "RABBITMQ_PID_FILE": str(data / "rabbitmq.pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "ERL_EPMD_ADDRESS": ports.LOOPBACK,
    }


def run_ctl(folder: RunFolder, arguments: list[str], out: IO[str] | None = None) -> int:
    """Run rabbitmqctl against the folder's broker, as its account; the exit code."""
    user = account("rabbitmq")
    data = (folder.data / NAME).resolve()
    broker_node = folder.remembered()["broker_node"]
    done = subprocess.run(
        [str(SCRIPTS / "rabbitmqctl"), "-n", broker_node, *arguments],
        env=environment(broker_node, data),
        cwd=data,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT if out else None,
        timeout=60,
        check=False,
    )
    return done.returncode


def definitions(password: str) -> dict[str, object]:
    """Our only user and the policies; with a user defined, RabbitMQ does not make its guest."""
    defined: dict[str, object] = json.loads(POLICIES.read_text())
    defined["users"] = [
        {
            "name": "votemill",
            "password_hash": _password_hash(password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "administrator",
        }
    ]
    defined["permissions"] = [
        {"user": "votemill", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    ]
    return defined


def _password_hash(password: str) -> str:
    """RabbitMQ's form: four bytes of salt, then SHA-256 over the salt and the password, in base64.

    The salt comes from the password, so that the definitions stay the same from start to start.
    """
    salt = hashlib.sha256(b"salt" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
