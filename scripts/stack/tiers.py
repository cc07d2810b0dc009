"""Our own processes: the socket nodes and the workers, and the environment they are given."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from models import accounts
from models.runtime.signing_keys import KeyFile, SigningKey
from scripts.stack import certificates, ports
from scripts.stack.plan import SERVERS, Plan
from scripts.stack.program import Program
from scripts.stack.run_folder import ROOT, write_private
from scripts.stack.services import haproxy, pgbackrest

_FOR_ALERTER = tuple(f"VOTEMILL_{name}" for name in ("ENV", "ALERTS__", "LOG__", "METRICS__", "SECRETS__"))


def programs(plan: Plan) -> list[Program]:
    """Nodes first, then the workers for votes, then those for everything else."""
    nodes = [_node(plan, name) for name in plan.node_names]
    votes = [_worker(plan, f"worker-{n}", "votes") for n in range(1, plan.options.workers + 1)]
    host = [_worker(plan, f"host-worker-{n}", "host") for n in range(1, plan.options.host_workers + 1)]
    return nodes + votes + host


def alerter(plan: Plan) -> Program:
    """It knows neither the three servers nor any secret of nodes and workers."""
    settings = {name: value for name, value in settings_env(plan).items() if name.startswith(_FOR_ALERTER)}
    given = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
    given |= {name: value for name, value in os.environ.items() if name.startswith(_FOR_ALERTER)}
    env = given | settings | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return Program("alerter", "server", [sys.executable, "-m", "scripts.alerts"], env)


def settings_env(plan: Plan) -> dict[str, str]:
    """The variables that make any of our programs part of this stack; the settings' own names for them."""
    addresses = [plan.options.port, *plan.node_ports.values()]
    origins = [f"http://{host}:{port}" for port in dict.fromkeys(addresses) for host in ("localhost", ports.LOOPBACK)]
    variables = {
        "VOTEMILL_ENV": plan.environment,
        **_addresses(plan, plan.urls),
        "VOTEMILL_LOG__FALLBACK_FOLDER": str(plan.folder.logs / "diverted"),
        "VOTEMILL_NODE__PUBLIC_URL": plan.base_url,
        "VOTEMILL_SECURITY__EXTRA_ORIGINS": f"@json {json.dumps(origins)}",
    }
    for section in (SERVERS[server] for server in plan.private):
        files = certificates.settings(plan.folder) if plan.options.tls else dict.fromkeys(certificates.KEYS, "")
        variables |= {f"VOTEMILL_{section}__{key}".upper(): file for key, file in files.items()}
    if not os.environ.keys() & {"VOTEMILL_SECURITY__SIGNING_KEYS", "VOTEMILL_SECURITY__SIGNING_KEYS_FILE"}:
        variables["VOTEMILL_SECURITY__SIGNING_KEYS_FILE"] = str(_signing_keys(plan))
    if "VOTEMILL_SECURITY__ADMIN_TOKEN" not in os.environ:
        variables["VOTEMILL_SECURITY__ADMIN_TOKEN"] = plan.folder.secret("admin-token")
    if "VOTEMILL_AUDIT__ADDRESS_KEY" not in os.environ:
        variables["VOTEMILL_AUDIT__ADDRESS_KEY"] = plan.folder.secret("audit-address-key")
    if plan.balanced:
        variables["VOTEMILL_SECURITY__TRUSTED_PROXIES"] = f"@json {json.dumps([ports.LOOPBACK])}"
    if plan.options.metrics:
        variables |= {
            "VOTEMILL_METRICS__STATSD_HOST": ports.LOOPBACK,
            "VOTEMILL_METRICS__STATSD_PORT": str(plan.ports["statsd"]),
            "VOTEMILL_METRICS__GRAPHITE_URL": plan.graphite_url,
            "VOTEMILL_ALERTS__ALERTMANAGER_URL": plan.alertmanager_url,
        }
        # The disks of the servers, too, unless somebody has named others.
        if "VOTEMILL_METRICS__WATCH_FOLDERS" not in os.environ:
            folders = [str(folder) for folder in (*map(plan.data_of, plan.private), plan.folder.logs)]
            variables["VOTEMILL_METRICS__WATCH_FOLDERS"] = f"@json {json.dumps(folders)}"
    if plan.options.unlimited:
        variables["VOTEMILL_LIMITS__UNLIMITED"] = "true"
    return variables


def _addresses(plan: Plan, urls: dict[str, str]) -> dict[str, str]:
    variables = {f"VOTEMILL_{section}__URL".upper(): urls[section] for section in SERVERS.values()}
    if "postgres" in plan.private:
        # Without a standby too: one that the caller's shell names is no copy of this database.
        variables["VOTEMILL_DATABASE__REPLICA_URL"] = urls.get("replica", "")
    return variables


def process_env(plan: Plan) -> dict[str, str]:
    """The caller's environment, this stack's settings, and where our packages are."""
    return dict(os.environ) | settings_env(plan) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def public_env(plan: Plan) -> dict[str, str]:
    """What .run/env tells people and tools about the stack."""
    standby = {"REPLICA_URL": plan.whole_urls["replica"]} if plan.options.replica else {}
    standby |= {"SYNCHRONOUS": "yes"} if plan.options.synchronous else {}
    guarded = {"TLS": "yes"} if plan.options.tls else {}
    guarded |= {"ACCOUNTS": "yes"} if plan.options.accounts else {}
    guarded |= {"LINKS": " ".join([str(plan.ports["links"]), *plan.link_names])} if plan.options.links else {}
    backup = {"PGBACKREST_CONFIG": str(pgbackrest.configuration(plan.folder))} if plan.options.backup else {}
    metrics = (
        {"GRAPHITE_URL": plan.graphite_url, "ALERTMANAGER_URL": plan.alertmanager_url} if plan.options.metrics else {}
    )
    return (
        standby
        | guarded
        | backup
        | metrics
        | {
            "DATABASE_URL": plan.whole_urls["database"],
            "AMQP_URL": plan.whole_urls["broker"],
            "REDIS_URL": plan.whole_urls["redis"],
            "BASE_URL": plan.base_url,
            "NODE_URLS": ",".join(plan.node_urls),
            "RUN_DIR": str(plan.folder.path),
        }
    )


def node_is_ready(plan: Plan, name: str) -> bool:
    """Whether the node says that browsers may come."""
    return haproxy.answers_ready(plan.node_ports[name])


def node_is_healthy(plan: Plan, name: str) -> bool:
    """Whether the node reaches every server, and has heard of workers for every queue."""
    try:
        url = f"http://{ports.LOOPBACK}:{plan.node_ports[name]}/api/health"
        with urllib.request.urlopen(url, timeout=2) as answer:  # always http  # nosec B310
            return bool(json.load(answer)["status"] == "healthy")
    except (OSError, ValueError):
        return False


def _signing_keys(plan: Plan) -> Path:
    """The file that scripts/keys rotates, made with the folder's first key."""
    file = plan.folder.secrets / "signing-keys.json"
    if not file.exists():
        first = SigningKey(plan.folder.secret("signing-key"), datetime.now(UTC))
        write_private(file, msgspec.json.encode(KeyFile((first,))).decode())
    return file


def _node(plan: Plan, name: str) -> Program:
    env = process_env(plan) | _addresses(plan, plan.urls_of(accounts.NODE, name))
    # It knows nothing of the database.
    env = {key: value for key, value in env.items() if not key.startswith("VOTEMILL_DATABASE__")}
    env |= {
        "VOTEMILL_NODE__NAME": name,
        "VOTEMILL_NODE__HOST": ports.LOOPBACK,
        "VOTEMILL_NODE__PORT": str(plan.node_ports[name]),
    }
    return Program(name, "node", [sys.executable, "-m", "socket_tier"], env, steady_after_s=3)


def _worker(plan: Plan, name: str, queues: str) -> Program:
    urls = plan.urls_of(accounts.VOTES_WORKER if queues == "votes" else accounts.HOST_WORKER, name)
    env = process_env(plan) | _addresses(plan, urls) | {"VOTEMILL_WORKER__NAME": name}
    return Program(name, "worker", [sys.executable, "-m", "workers", queues], env, steady_after_s=3)
