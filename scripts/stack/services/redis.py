"""The private Redis: memory only, since everything in it can be rebuilt."""

from __future__ import annotations

import redis

from models import accounts
from scripts import server_accounts
from scripts.stack import certificates, ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program

NAME = "redis"


def program(plan: Plan) -> Program:
    """redis-server in the foreground; a full memory refuses writes instead of forgetting rooms."""
    user = account("redis")
    data = make_data_folder(plan.folder, NAME, user)
    port = str(plan.ports[NAME])
    argv = ["redis-server", "--bind", ports.LOOPBACK, "--dir", str(data)]
    argv += ["--port", "0", "--tls-port", port] if plan.options.tls else ["--port", port]
    argv += ["--save", "", "--appendonly", "no", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction"]
    if plan.options.tls:
        argv += ["--tls-ca-cert-file", str(data / certificates.CA), "--tls-auth-clients", "yes"]
        argv += ["--tls-cert-file", str(data / f"{certificates.SERVER}.pem")]
        argv += ["--tls-key-file", str(data / f"{certificates.SERVER}.key")]
    if plan.options.accounts:
        argv += ["--aclfile", str(data / "users.acl")]
    return Program(NAME, "server", argv, server_env(data), cwd=data, user=user)


def prepare(plan: Plan) -> None:
    """The files that the command line names."""
    data = make_data_folder(plan.folder, NAME, account("redis"))
    if plan.options.tls:
        certificates.give_to_server(plan.folder, data)
    if plan.options.accounts:
        rules = server_accounts.redis_rules(server_accounts.passwords(plan.folder, "redis", accounts.RULES))
        write_for_server(data / "users.acl", rules)


def is_ready(plan: Plan) -> bool:
    """Whether it answers."""
    client = redis.Redis.from_url(plan.whole_urls["redis"], socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
