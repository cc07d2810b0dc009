"""The private RabbitMQ: a node of its own name, our accounts, and the queue limits as policies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import IO

import pika
import pika.exceptions

from models import accounts
from scripts import server_accounts
from scripts.stack import certificates, ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.run_folder import RunFolder

NAME = "rabbitmq"
SCRIPTS = Path("/usr/lib/rabbitmq/bin")

CONFIGURATION = """\
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
PLAIN = "listeners.tcp.default = {host}:{port}\n"
TLS_ONLY = f"""\
listeners.tcp = none
listeners.ssl.default = {{host}}:{{port}}
ssl_options.cacertfile = {{data}}/{certificates.CA}
ssl_options.certfile = {{data}}/{certificates.SERVER}.pem
ssl_options.keyfile = {{data}}/{certificates.SERVER}.key
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""


def program(plan: Plan) -> Program:
    """beam.smp itself: with RABBITMQ_ALLOW_INPUT the start script executes Erlang in its own place."""
    user = account("rabbitmq")
    data = make_data_folder(plan.folder, NAME, user)
    env = environment(plan.broker_node, data) | {
        "RABBITMQ_DIST_PORT": str(plan.ports["rabbitmq-dist"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_ALLOW_INPUT": "1",
    }
    return Program(NAME, "server", [str(SCRIPTS / "rabbitmq-server")], env, cwd=data, user=user, steady_after_s=2)


def prepare(plan: Plan) -> None:
    """Write the configuration and the definitions, which RabbitMQ imports before it opens its port."""
    data = make_data_folder(plan.folder, NAME, account("rabbitmq"))
    configuration = CONFIGURATION + (TLS_ONLY if plan.options.tls else PLAIN)
    secrets = {accounts.OWNER: plan.folder.secret("broker-password")}
    if plan.options.accounts:
        secrets |= server_accounts.passwords(plan.folder, "broker", accounts.PERMISSIONS)
    if plan.options.tls:
        certificates.give_to_server(plan.folder, data)
    texts = {
        "rabbitmq.conf": configuration.format(host=ports.LOOPBACK, port=plan.ports[NAME], data=data),
        "definitions.json": json.dumps(server_accounts.broker_definitions(secrets), indent=2),
        "enabled_plugins": "[].\n",
    }
    for name, text in texts.items():
        write_for_server(data / name, text)


def is_ready(plan: Plan) -> bool:
    """Whether our user can log in. RabbitMQ listens only after it has booted and imported the definitions."""
    if ports.is_free(plan.ports[NAME]):
        return False
    parameters = pika.URLParameters(plan.whole_urls["broker"])
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
