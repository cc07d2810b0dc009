"""What each account may do in PostgreSQL, RabbitMQ and Redis: what its role does, and no more.

``scripts/accounts`` makes accounts of it. While two versions run side by side both must find what they need, so a right
is taken away a release later than its use.

A node has no account in PostgreSQL. The owner of the database and its tables, ``votemill``, is for migrations alone.
"""

from collections.abc import Collection, Iterator, Mapping

from models.wire import names

NODE = "votemill_node"
VOTES_WORKER = "votemill_votes_worker"
HOST_WORKER = "votemill_host_worker"
RETENTION = "votemill_retention"  # scripts/retention by itself; host workers may do it, too
SCALER = "votemill_scaler"
OPERATOR = "votemill_operator"  # of people: may do everything in RabbitMQ and Redis, and read the tables
OWNER = "votemill"

# PostgreSQL: privileges of groups that nobody logs in as; an account is a member of some. scripts/migrate up grants
# them at its end, so a new table needs a line here. To lock a row takes an UPDATE on one of its columns; the checks and
# cascades of foreign keys run as the owner.
_VERSION = "UPDATE (version, changed_at_rest_us)"
TABLES: Mapping[str, Mapping[str, str]] = {
    "votemill_votes": {
        "polls": f"SELECT, {_VERSION}",
        "voting_periods": "SELECT",
        "hosts": "SELECT",
        "participants": "SELECT, INSERT",
        "votes": "SELECT, INSERT, UPDATE",
        "tallies": "SELECT, UPDATE",
        "rejected_votes": "SELECT, INSERT",
        "applied_batches": "SELECT, INSERT",
        "poll_batches": "SELECT, INSERT, UPDATE",
        "queue_consumers": "SELECT, INSERT, UPDATE",
        "queue_drains": "SELECT",
        "left_out_polls": "SELECT, INSERT, DELETE",
        "audit_log": "INSERT",
    },
    "votemill_hosts": {
        "polls": "SELECT, INSERT, UPDATE",
        "voting_periods": "SELECT, INSERT, DELETE",
        "state_changes": "SELECT, INSERT",
        "hosts": "SELECT, INSERT, DELETE",
        "participants": "SELECT, INSERT, UPDATE",
        "votes": "SELECT",
        "tallies": "SELECT, INSERT",
        "applied_batches": "SELECT",
        "poll_batches": "SELECT",
        "poll_flushes": "SELECT, INSERT, UPDATE",
        "nodes": "SELECT, INSERT, UPDATE",
        "queue_consumers": "SELECT, INSERT, UPDATE, DELETE",
        "queue_drains": "SELECT, INSERT, UPDATE",
        "audit_log": "INSERT, SELECT (id)",
    },
    "votemill_retires": {
        "polls": f"SELECT, {_VERSION}, UPDATE (expires_at), DELETE",
        "voting_periods": "SELECT",
        "state_changes": "SELECT",
        "participants": "SELECT, DELETE",
        "votes": "SELECT, DELETE",
        "tallies": "SELECT, DELETE",
        "rejected_votes": "SELECT, DELETE",
        "applied_batches": "SELECT, DELETE",
        "poll_batches": "SELECT, DELETE",
        "poll_flushes": "SELECT, DELETE",
        "left_out_polls": "SELECT, DELETE",
        "nodes": "SELECT, DELETE",
        "audit_log": "SELECT, INSERT, DELETE",
        "retired_polls": "SELECT, INSERT, UPDATE, DELETE",
    },
}
READER = "votemill_reads"  # every table
GROUPS: Mapping[str, tuple[str, ...]] = {
    VOTES_WORKER: ("votemill_votes",),
    HOST_WORKER: ("votemill_hosts", "votemill_retires"),
    RETENTION: ("votemill_retires",),
    OPERATOR: (READER,),
}

# RabbitMQ: configure, write and read. The default exchange (amq.default) leads to every queue, so it is not for nodes.
# To bind a queue takes writing to it and reading from the exchange. Who may declare a queue may delete it.
_QUEUES = "|".join(names.COMMAND_QUEUES)
_NODES = names.NODES_EXCHANGE.replace(".", r"\.")
_COMMANDS = names.COMMANDS_EXCHANGE.replace(".", r"\.")
_WORKERS_DECLARE = rf"^(({_QUEUES})(\.DQ|\.dead)?|{_COMMANDS}|{_NODES})$"
_WORKERS_WRITE = rf"^(amq\.default|{_QUEUES}|{_NODES})$"
PERMISSIONS: Mapping[str, tuple[str, str, str]] = {
    NODE: (r"^node\.", rf"^({_COMMANDS}$|{_NODES}$|node\.)", rf"^({_NODES}$|node\.)"),
    VOTES_WORKER: (_WORKERS_DECLARE, _WORKERS_WRITE, rf"^({names.VOTES_QUEUE}(\.DQ)?|{_COMMANDS})$"),
    HOST_WORKER: (
        _WORKERS_DECLARE,
        _WORKERS_WRITE,
        rf"^(({names.HOST_QUEUE}|{names.MEMBERS_QUEUE}|{names.AUDIT_QUEUE})(\.DQ)?|{_COMMANDS})$",
    ),
    # To ask how long a queue is takes no right.
    SCALER: (r"^scaler\.", r"^scaler\.", rf"^({_NODES}$|scaler\.)"),
    OPERATOR: (".*", ".*", ".*"),
}

# Redis: what stands behind the password in an ACL file. Commands count inside of scripts, too.
_CONNECTS = "+ping +select"
_SCRIPTS = "+evalsha +script|load +script|exists"
_HASHES = "+hget +hgetall +hmget +hset +hsetnx +hdel +hlen +hexists +hincrby +expire"
_FAN_OUT = f"&{names.FANOUT_CHANNEL}"
RULES: Mapping[str, str] = {
    NODE: f"~room:* ~browser:* ~node:* ~{names.NODES_ALIVE_KEY} ~config:* ~limits* %R~{names.CLOCK_KEY} {_FAN_OUT}"
    f" {_FAN_OUT}:*"
    f" {_CONNECTS} +time {_SCRIPTS} {_HASHES} +get +set +del +zadd +zrem +zrangebyscore +publish +subscribe"
    " +unsubscribe",
    VOTES_WORKER: f"~room:* ~turn:* ~{names.CLOCK_KEY} %R~config:* {_FAN_OUT} {_CONNECTS} +time {_SCRIPTS} {_HASHES}"
    " +set +publish",
    HOST_WORKER: f"~room:* ~browser:* ~turn:* ~lead:* ~{names.CLOCK_KEY} %R~config:* {_FAN_OUT}"
    f" {_CONNECTS} +time {_SCRIPTS} {_HASHES} +get +set +pexpire +del +unlink +scan +publish",
    RETENTION: f"~room:* {_FAN_OUT} {_CONNECTS} +del +publish",
    SCALER: f"~{names.SCALER_KEY} %R~node:* %R~{names.NODES_ALIVE_KEY} %R~config:*"
    f" {_CONNECTS} +time +zrangebyscore +mget +hgetall +get +set +pexpire",
    OPERATOR: "allkeys allchannels +@all",
}


def grants(groups: Collection[str], tables: Collection[str]) -> Iterator[str]:
    """SQL that leaves each of these groups with its rights in these tables and no others; run by the tables' owner."""
    for group in groups:
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {group}"
        if group == READER:
            yield f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {group}"
            continue
        for table, rights in TABLES[group].items():
            if table in tables:
                yield f"GRANT {rights} ON {table} TO {group}"
