"""Redis: version, what it does when its memory is full, persistence, clock; and the nodes' heartbeats in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from models import accounts
from models.runtime import tls
from models.wire import names
from scripts.checkup.findings import (
    MAKE_ACCOUNTS,
    ONE_ACCOUNT,
    Finding,
    Here,
    Status,
    at_most,
    clock,
    guarded,
    judged,
    numbers,
    version,
)
from workers.cache import open_redis

LEAST = (7,)
_OPERATORS = {"flushall", "keys", "eval", "config|set", "acl|setuser"}


def check(here: Here) -> Iterator[Finding]:
    client = open_redis(here.settings.redis)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        advice = "start it, or correct redis.url; until then live totals pause and newcomers wait"
        found = f"not reached: {here.hide(tls.explained('redis', error))}"
        yield Finding("Redis", Status.FAILED, found, advice)
        return
    try:
        for name, ask in _CHECKS.items():
            yield from guarded(f"Redis {name}", ask(here, client), here)
    finally:
        client.close()


def _version(_here: Here, client: Any) -> Iterator[Finding]:
    text = str(client.info("server")["redis_version"])
    yield version("Redis", numbers(text), text, LEAST)


def _memory(here: Here, client: Any) -> Iterator[Finding]:
    info = client.info("memory")
    policy, used, most = info["maxmemory_policy"], int(info["used_memory"]), int(info["maxmemory"])
    found = f"maxmemory-policy {policy}"
    advice = "noeviction: presence, limits and roles that are forgotten one by one can't be rebuilt"
    yield judged("Redis eviction", policy == "noeviction", found, Status.FAILED, advice)
    if not most:
        yield Finding("Redis memory", here.at_fault, "maxmemory is not set", "set it below what the machine has")
        return
    found = f"{used / 1e6:.0f} of {most / 1e6:.0f} MB"
    yield at_most("Redis memory", used / most, 0.7, 0.9, found, "raise maxmemory; a full Redis refuses newcomers")


def _persistence(_here: Here, client: Any) -> Iterator[Finding]:
    info = client.info("persistence")
    saves = client.config_get("save").get("save", "")
    on = [what for what, is_on in (("appendonly", info["aof_enabled"]), (f"save {saves}", saves)) if is_on]
    found = ", ".join(on) or "off"
    advice = 'save "" and appendonly no: all in it is rebuilt, and a snapshot that fails makes it refuse writes'
    yield judged("Redis persistence", not on, found, Status.NOTE, advice)
    if saves and info.get("rdb_last_bgsave_status") == "err":
        yield Finding("Redis persistence", Status.FAILED, "the last snapshot failed: writes are refused", advice)


def _accounts(here: Here, client: Any) -> Iterator[Finding]:
    name = "Redis accounts"
    there = {account: user for account in accounts.RULES if (user := client.acl_getuser(account)) is not None}
    if not there:
        yield Finding(name, here.at_fault, ONE_ACCOUNT, MAKE_ACCOUNTS)
        return
    wrong = [account for account in accounts.RULES if account not in there]
    wrong += [
        account for account in there if account != accounts.OPERATOR and not _fits(client, account, there[account])
    ]
    text = "; ".join(f"{account} has other rights, or none" for account in wrong) or "each has the rights of its role"
    yield judged(name, not wrong, text, Status.FAILED, MAKE_ACCOUNTS)


def _fits(client: Any, account: str, user: dict[str, Any]) -> bool:
    """Whether it has its keys and channels, its commands, and none of those that are nobody's but the operator's."""
    rules = accounts.RULES[account].split()
    wanted = {rule[1:] for rule in rules if rule.startswith("+")}
    if {*user["keys"], *user["channels"]} != {rule for rule in rules if not rule.startswith("+")}:
        return False
    return all(_may(client, account, command) == (command in wanted) for command in wanted | _OPERATORS)


def _may(client: Any, account: str, command: str) -> bool:
    """Redis tells commands by categories, so each has to be asked for, with as many arguments as it needs."""
    arity = client.execute_command("COMMAND INFO", command)[0][1]
    words = command.split("|")
    reply = client.execute_command("ACL DRYRUN", account, *words, *["1"] * (abs(arity) - len(words)))
    return b"permissions to run" not in reply


def _clock(here: Here, client: Any) -> Iterator[Finding]:
    before = here.clock()
    seconds, microseconds = client.time()
    yield clock("Redis", seconds + microseconds / 1e6, before, here.clock())


def _nodes(here: Here, client: Any) -> Iterator[Finding]:
    seconds, microseconds = client.time()
    since = seconds + microseconds / 1e6 - here.settings.room.node_timeout_s
    alive = client.zcount(names.NODES_ALIVE_KEY, since, "+inf")
    yield judged("nodes", alive > 0, f"{alive} alive by their heartbeats", Status.FAILED, "start nodes")


_CHECKS = {
    "version": _version,
    "memory": _memory,
    "persistence": _persistence,
    "accounts": _accounts,
    "clock": _clock,
    "nodes": _nodes,
}
