"""The private PostgreSQL: durable settings (fsync and synchronous_commit stay on), passwords, loopback only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.extensions

from models import accounts
from scripts import server_accounts
from scripts.stack import certificates, ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.progress import StepFailed
from scripts.stack.services import pgbackrest

NAME = "postgres"
ADMIN = "postgres"
STANDBY = "standby"  # under which name it follows

# For --tls. Those without a certificate are the stack's own tools.
_TLS_ONLY = """\
hostssl all {tools} 127.0.0.1/32 scram-sha-256
hostssl replication {tools} 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
"""


def program(plan: Plan) -> Program:
    """The postmaster. SIGINT is its fast shutdown: sessions are cut, a checkpoint is written."""
    user = account("postgres")
    data = make_data_folder(plan.folder, NAME, user)
    more = pgbackrest.archiving(plan.folder) if plan.options.backup else {}
    if plan.options.synchronous:
        more["synchronous_standby_names"] = STANDBY
    if plan.options.tls:
        more |= encryption(data)
    argv = [str(binary("postgres")), "-D", str(data / "cluster"), *options(plan.ports[NAME], **more)]
    return Program(NAME, "server", argv, server_env(data), cwd=data, user=user, stop_signal="INT")


def options(port: int, **more: str) -> list[str]:
    """The command line of a postmaster, the standby's too: some settings must not be smaller there."""
    settings = {
        "listen_addresses": ports.LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "shared_buffers": "256MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "max_slot_wal_keep_size": "256MB",  # a standby that is away for longer than this much WAL is made anew
        "wal_sender_timeout": "10s",  # a standby that hangs must not hold up the shutdown for longer
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %a ",
    }
    return [word for key, value in (settings | more).items() for word in ("-c", f"{key}={value}")]


def encryption(data: Path) -> dict[str, str]:
    """Settings under which the server in this folder, prepared for it, takes TLS alone."""
    return {
        "ssl": "on",
        "ssl_ca_file": str(data / certificates.CA),
        "ssl_cert_file": str(data / f"{certificates.SERVER}.pem"),
        "ssl_key_file": str(data / f"{certificates.SERVER}.key"),
        "hba_file": str(data / "pg_hba.conf"),
    }


def prepare_encryption(plan: Plan, data: Path) -> None:
    """The files that ``encryption`` names."""
    if plan.options.tls:
        certificates.give_to_server(plan.folder, data)
        tools = f"{ADMIN},votemill_standby,{pgbackrest.ROLE}"
        write_for_server(data / "pg_hba.conf", _TLS_ONLY.format(tools=tools))


def prepare(plan: Plan) -> None:
    """Make the cluster, the first time only.

    :raises StepFailed: initdb failed
    """
    user = account("postgres")
    data = make_data_folder(plan.folder, NAME, user)
    cluster = data / "cluster"
    prepare_encryption(plan, data)
    if plan.options.backup:
        pgbackrest.prepare(plan, cluster)
    if (cluster / "PG_VERSION").exists():
        return
    password_file = data / "admin-password"
    write_for_server(password_file, plan.folder.secret("database-admin-password"))
    log = plan.folder.log("initdb")
    command = [str(binary("initdb")), "-D", str(cluster), "-U", ADMIN, "--pwfile", str(password_file)]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    with log.open("w") as out:
        done = subprocess.run(
            command,
            env=server_env(data),
            cwd=data,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
    password_file.unlink()
    if done.returncode != 0:
        raise StepFailed("the PostgreSQL cluster could not be made", log)


def is_ready(plan: Plan) -> bool:
    """Whether the application's role can log in and query; makes role and database when they are missing."""
    try:
        psycopg2.connect(plan.whole_urls["database"], connect_timeout=2).close()
    except psycopg2.OperationalError as error:
        # Until the role exists, the server answers as to a wrong password.
        if "authentication failed" in str(error) or "does not exist" in str(error):
            _make_role_and_database(plan)
        return False
    return True


def _make_role_and_database(plan: Plan) -> None:
    """Idempotent. The role may make databases, so that tests can have one of their own."""
    with as_admin(plan) as cursor:
        make_role(cursor, "votemill", "CREATEDB", plan.folder.secret("database-password"))
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'votemill'")
        if not cursor.fetchone():
            cursor.execute("CREATE DATABASE votemill OWNER votemill")


def let_roles_in(plan: Plan) -> None:
    """The accounts of our processes; idempotent."""
    with as_admin(plan) as cursor:
        for statement in server_accounts.database_statements(
            server_accounts.passwords(plan.folder, "database", accounts.GROUPS)
        ):
            cursor.execute(statement)


def let_backups_in(plan: Plan) -> None:
    """The role that pgBackRest needs; idempotent."""
    with as_admin(plan) as cursor:
        make_role(cursor, pgbackrest.ROLE, "", plan.folder.secret("backup-password"))
        cursor.execute(pgbackrest.GRANT)


def make_role(cursor: psycopg2.extensions.cursor, name: str, may: str, password: str) -> None:
    """A role that can log in, made or changed to what is wanted."""
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    verb = "ALTER" if cursor.fetchone() else "CREATE"
    cursor.execute(f"{verb} ROLE {name} LOGIN {may} PASSWORD %s", (password,))


@contextmanager
def as_admin(plan: Plan) -> Iterator[psycopg2.extensions.cursor]:
    """A cursor of the superuser; each statement is a transaction of its own.

    None waits for a standby, which can't begin to follow before its role is there.
    """
    admin = psycopg2.connect(
        host=ports.LOOPBACK,
        port=plan.ports[NAME],
        user=ADMIN,
        dbname="postgres",
        password=plan.folder.secret("database-admin-password"),
        connect_timeout=2,
        options="-c synchronous_commit=local",
    )
    try:
        admin.autocommit = True
        with admin.cursor() as cursor:
            yield cursor
    finally:
        admin.close()


def binary(name: str) -> Path:
    """The newest installed version's program; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    if not found:
        raise StepFailed(f"PostgreSQL's {name} was not found under /usr/lib/postgresql")
    return found[-1]
