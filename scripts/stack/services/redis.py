"""The private Redis: memory only, since everything in it can be rebuilt."""

from __future__ import annotations

import redis

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program

NAME = "redis"


def program(plan: Plan) -> Program:
    """redis-server in the foreground; a full memory refuses writes instead of forgetting rooms."""
    user = account("redis")
    data = make_data_folder(plan.folder, NAME, user)
    argv = ["redis-server", "--bind", ports.LOOPBACK, "--port", str(plan.ports[NAME]), "--dir", str(data)]
    argv += ["--save", "", "--appendonly", "no", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction"]
    return Program(NAME, "server", argv, server_env(data), cwd=data, user=user)


def prepare(plan: Plan) -> None:
    """Nothing to make."""


def is_ready(plan: Plan) -> bool:
    """Whether it answers."""
    client = redis.Redis.from_url(plan.urls["redis"], socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
