"""PostgreSQL: version, durability, migrations, accounts and their rights, connections, standby, retention, archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from playhouse.migrations import Runner

from models import accounts
from models.database import Database, DatabaseUnavailable, open_database
from models.migrations.runner import FOLDER
from models.standby import read_lag_s
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

LEAST = (13,)
_DURABLE = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "remote_apply")}
_OVERRIDES = """
SELECT coalesce(r.rolname, 'every role'), coalesce(d.datname, 'every database'), unnest(s.setconfig)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
"""
_GRANTED = """
SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a, pg_roles r
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND r.oid = a.grantee AND r.rolname = %s
"""
_RIGHT = re.compile(r"(\w+)(?: \(([^)]*)\))?")
_ARCHIVER = """
SELECT current_setting('archive_mode'), last_archived_time, last_failed_time,
  extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, stats_reset))
FROM pg_stat_archiver
"""
_AWAY = {
    "": "start it, or correct database.url",
    "read_only": "promote a standby, or have database.url name the server that takes writes",
}
_MIGRATE = "scripts/migrate up (docker/run migrate up), as the owner of the tables"


def check(here: Here) -> Iterator[Finding]:
    settings = here.settings.database
    db = open_database(msgspec.structs.replace(settings, pool_size=1, call_deadline_s=8), "votemill-doctor")
    try:
        with db.session():
            for name, ask in _CHECKS.items():
                yield from guarded(f"PostgreSQL {name}", ask(here, db), here)
    except DatabaseUnavailable as error:
        advice = f"{_AWAY.get(error.reason, _AWAY[''])}; until then votes wait in the queue and new polls are refused"
        yield Finding("PostgreSQL", Status.FAILED, f"not reached: {here.hide(error)}", advice)
    finally:
        db.close()
    if settings.replica_url:
        yield from guarded("PostgreSQL standby", _standby(here), here)


def _version(_here: Here, db: Database) -> Iterator[Finding]:
    text = str(_one(db, "SHOW server_version"))
    yield version("PostgreSQL", numbers(text.split()[0]), text, LEAST)


def _durability(_here: Here, db: Database) -> Iterator[Finding]:
    wrong = [f"{name} = {value}" for name, good in _DURABLE.items() if (value := _one(db, f"SHOW {name}")) not in good]
    for role, database, setting in db.execute(_OVERRIDES):
        name, _, value = setting.partition("=")
        if name in _DURABLE and value not in _DURABLE[name]:
            wrong.append(f"{setting} for {role} in {database}")
    found = ", ".join(wrong) or "fsync, full_page_writes and synchronous_commit are on, for every role"
    advice = (
        "ALTER SYSTEM RESET, ALTER ROLE ... RESET or ALTER DATABASE ... RESET: without them acked votes can be lost"
    )
    yield judged("PostgreSQL durability", not wrong, found, Status.FAILED, advice)


def _migrations(_here: Here, db: Database) -> Iterator[Finding]:
    known = Runner(db.peewee_database, directory=str(FOLDER)).status()
    pending = [one.name for one in known if not one.applied]
    newer = [one.name for one in known if one.path is None]
    if newer:
        found = f"of a later version: {', '.join(newer)}"
        yield Finding("PostgreSQL migrations", Status.WARNING, found, "run the version that brought them")
    found = f"pending: {', '.join(pending)}" if pending else f"all {len(known)} are applied"
    yield judged("PostgreSQL migrations", not pending, found, Status.FAILED, _MIGRATE)


def _accounts(here: Here, db: Database) -> Iterator[Finding]:
    name = "PostgreSQL accounts"
    roles = dict(db.execute("SELECT rolname, rolsuper FROM pg_roles"))
    ours = {*accounts.GROUPS, accounts.OWNER, str(_one(db, "SELECT current_user"))}
    if powerful := sorted(role for role in ours if roles.get(role)):
        yield Finding(name, Status.WARNING, f"superuser: {', '.join(powerful)}", "ALTER ROLE ... NOSUPERUSER")
    groups = [group for group in accounts.TABLES if group in roles]
    if not groups:
        yield Finding(name, here.at_fault, ONE_ACCOUNT, MAKE_ACCOUNTS)
        return
    tables = {table for (table,) in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    lacking, beyond = [], []
    for group in groups:
        lacking += [f"{group} lacks {right}" for right in _lacking(db, group, tables)]
        beyond += [f"{group} has {right}" for right in _beyond(db, group, tables)]
    for account in accounts.GROUPS.keys() & roles.keys():
        for group in set(accounts.GROUPS[account]) & roles.keys():
            if not _one(db, "SELECT pg_has_role(%s, %s, 'MEMBER')", account, group):
                lacking.append(f"{account} isn't in {group}")
    yield judged(
        name, not lacking, "; ".join(lacking)[:300] or "each has the rights of its role", Status.FAILED, _MIGRATE
    )
    if beyond:
        yield Finding(name, Status.WARNING, "; ".join(beyond)[:300], f"take it away: {_MIGRATE}")


def _lacking(db: Database, group: str, tables: set[str]) -> Iterator[str]:
    for table in accounts.TABLES[group].keys() & tables:
        for right, columns in _rights(group, table):
            for column in columns or [""]:
                asked = (group, table, column, right) if column else (group, table, right)
                kind = "column" if column else "table"
                if not _one(db, f"SELECT has_{kind}_privilege({', '.join(['%s'] * len(asked))})", *asked):
                    yield f"{right} on {table}" + (f" ({column})" if column else "")


def _beyond(db: Database, group: str, tables: set[str]) -> Iterator[str]:
    granted = {(table, right) for table, right in db.execute(_GRANTED, (group,)) if table in tables}
    for table, right in sorted(granted):
        if right not in [known for known, columns in _rights(group, table) if not columns]:
            yield f"{right} on {table}"


def _rights(group: str, table: str) -> list[tuple[str, list[str]]]:
    """``SELECT, UPDATE (a, b)`` as pairs of right and columns."""
    text = accounts.TABLES[group].get(table, "")
    return [(right, columns.split(", ") if columns else []) for right, columns in _RIGHT.findall(text)]


def _connections(_here: Here, db: Database) -> Iterator[Finding]:
    most = int(_one(db, "SHOW max_connections"))
    used = int(_one(db, "SELECT sum(numbackends) FROM pg_stat_database"))
    advice = "raise max_connections, or lower database.pool_size: each worker process opens so many"
    yield at_most("PostgreSQL connections", used / most, 0.8, 0.95, f"{used} of {most}", advice)


def _clock(here: Here, db: Database) -> Iterator[Finding]:
    before = here.clock()
    theirs = float(_one(db, "SELECT extract(epoch FROM clock_timestamp())"))
    yield clock("PostgreSQL", theirs, before, here.clock())


def _retention(here: Here, db: Database) -> Iterator[Finding]:
    late = "SELECT count(*) FROM polls WHERE created_at < %s"
    days = here.settings.poll.retention_days
    limit = datetime.now(UTC) - timedelta(days=days + 1)
    number = int(_one(db, late, limit))
    found = f"{number} polls are older than {days + 1} days" if number else f"no poll is older than {days + 1} days"
    advice = "scripts/retention does it at once; do host workers run, and what do they say of retention?"
    yield judged("retention of polls", not number, found, Status.WARNING, advice)
    stuck = int(_one(db, "SELECT count(*) FROM retired_polls WHERE archived_at IS NULL"))
    if stuck:
        advice = "the host workers' logs name the reason (retention.failed)"
        yield Finding("retention archive", Status.WARNING, f"{stuck} polls wait to be archived", advice)


def _archive(here: Here, db: Database) -> Iterator[Finding]:
    """The continuous archive, from which backups are brought up to a moment."""
    ((mode, archived, failed, age_s),) = db.execute(_ARCHIVER)
    name = "backup archive"
    if mode == "off":
        yield Finding(name, here.at_fault, "archive_mode is off", "nomad/README.md, Backups, says how to set it up")
    elif failed and (archived is None or failed > archived):
        advice = "PostgreSQL's log has the reason; its disk fills meanwhile"
        yield Finding(name, Status.FAILED, f"archiving fails since {failed:%Y-%m-%d %H:%M:%S}", advice)
    else:
        found = f"last archived {float(age_s):.0f} s ago" if archived else "nothing archived yet"
        yield Finding(name, Status.OK, found)


def _slots(_here: Here, db: Database) -> Iterator[Finding]:
    slots = list(db.execute("SELECT slot_name, active, wal_status FROM pg_replication_slots"))
    for slot, active, status in slots:
        good = active and status == "reserved"
        advice = "bring the standby back, or drop its slot; one that is lost must be copied anew"
        yield judged(f"PostgreSQL slot {slot}", good, f"active: {active}, WAL: {status}", Status.WARNING, advice)


def _standby(here: Here) -> Iterator[Finding]:
    settings = here.settings.database
    replica = msgspec.structs.replace(settings, url=settings.replica_url, pool_size=1, call_deadline_s=8)
    db = open_database(replica, "votemill-doctor", writable=False)
    advice = "exports are read from the primary meanwhile; look at the standby's log and connection"
    try:
        lag_s = read_lag_s(db)
    except DatabaseUnavailable as error:
        yield Finding("PostgreSQL standby", Status.WARNING, f"not reached: {here.hide(error)}", advice)
        return
    finally:
        db.close()
    found = "no standby that follows a primary" if lag_s is None else f"{lag_s:.1f} s behind"
    good = lag_s is not None and lag_s <= settings.replica_max_lag_s
    yield judged("PostgreSQL standby", good, found, Status.WARNING, advice)


def _one(db: Database, sql: str, *parameters: Any) -> Any:
    """The first value of the first row."""
    return db.execute(sql, parameters).fetchone()[0]


_CHECKS = {
    "version": _version,
    "durability": _durability,
    "migrations": _migrations,
    "accounts": _accounts,
    "connections": _connections,
    "clock": _clock,
    "retention": _retention,
    "archive": _archive,
    "slots": _slots,
}
