"""The private standby: follows the private PostgreSQL by streaming replication and answers reads."""

from __future__ import annotations

import psycopg2

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.services import postgres

NAME = "standby"
ROLE = "votemill_standby"

# The slot keeps for the standby what it has not got yet, up to max_slot_wal_keep_size. A slot that is missing or lost
# therefore says that the standby can't catch up any more, or that the primary is another one, and it is made anew. A
# primary that doesn't answer says nothing. In the shell, since the server's account may not be able to read our code.
BECOME_STANDBY = """
set -eu
slot=$(psql -XAtc "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '$SLOT'") || slot=unknown
if [ ! -e cluster/PG_VERSION ] || [ -z "$slot" ] || [ "$slot" = lost ]; then
    echo "copying the primary: there is no standby yet, or what it lacks is gone (slot: ${slot:-missing})"
    rm -rf cluster cluster.new
    [ "$slot" != lost ] || psql -XAtqc "SELECT pg_drop_replication_slot('$SLOT')"
    psql -XAtqc "SELECT pg_create_physical_replication_slot('$SLOT', true)
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$SLOT')"
    pg_basebackup --pgdata=cluster.new --wal-method=stream --slot="$SLOT" --checkpoint=fast
    touch cluster.new/standby.signal
    mv cluster.new cluster
fi
exec postgres -D cluster "$@"
"""


def program(plan: Plan) -> Program:
    """The postmaster, after a look at whether what its cluster needs is still to be had."""
    user = account("postgres")
    data = make_data_folder(plan.folder, NAME, user)
    passwords = data / "passwords"
    primary = f"host={ports.LOOPBACK} port={plan.ports[postgres.NAME]} user={ROLE} passfile={passwords}"
    settings = postgres.options(
        plan.ports[NAME],
        **(postgres.encryption(data) if plan.options.tls else {}),
        primary_conninfo=f"{primary} application_name={postgres.STANDBY}",
        primary_slot_name=NAME,
        wal_receiver_timeout="5s",  # a primary that is silent for so long is gone: until then the lag reads 0
        wal_retrieve_retry_interval="1s",
    )
    env = server_env(data)
    env |= {
        "PATH": f"{postgres.binary('postgres').parent}:{env['PATH']}",
        "PGHOST": ports.LOOPBACK,
        "PGPORT": str(plan.ports[postgres.NAME]),
        "PGUSER": ROLE,
        "PGDATABASE": "postgres",
        "PGPASSFILE": str(passwords),
        "PGCONNECT_TIMEOUT": "5",
        "SLOT": NAME,
    }
    argv = ["/bin/sh", "-c", BECOME_STANDBY, NAME, *settings]
    return Program(NAME, "server", argv, env, cwd=data, user=user, stop_signal="INT")


def prepare(plan: Plan) -> None:
    """Let it into the primary, which must be up. Its cluster it makes by itself when it starts."""
    password = plan.folder.secret("standby-password")
    with postgres.as_admin(plan) as cursor:
        postgres.make_role(cursor, ROLE, "REPLICATION", password)
    data = make_data_folder(plan.folder, NAME, account("postgres"))
    write_for_server(data / "passwords", f"*:*:*:{ROLE}:{password}\n")
    postgres.prepare_encryption(plan, data)


def is_ready(plan: Plan) -> bool:
    """Whether it answers and follows the primary."""
    try:
        connection = psycopg2.connect(plan.whole_urls["replica"], connect_timeout=2)
    except psycopg2.OperationalError:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_wal_receiver")
            return cursor.fetchone() is not None
    except psycopg2.OperationalError:
        return False
    finally:
        connection.close()
