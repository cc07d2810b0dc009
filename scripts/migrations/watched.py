"""Applies one migration as the runner does, and looks at what it holds up before it commits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from playhouse.migrations import Migration

from models.database import Database
from models.migrations.runner import LOCK_TIMEOUT_S, migration_runner
from models.runtime.settings import DatabaseSettings
from scripts.migrations.catalog import files_of

# What a table may cost while its votes wait: about a tenth of a second.
MOST_ROWS = 1_000

# Locks of this transaction that keep others from writing, and what it has read and written.
_HELD = """
SELECT c.relname, string_agg(l.mode, ', '), coalesce(s.seq_tup_read, 0), coalesce(s.n_tup_upd + s.n_tup_del, 0)
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid
WHERE l.pid = pg_backend_pid() AND l.granted AND c.relkind = 'r' AND l.mode = ANY(%s) GROUP BY 1, 3, 4
"""
_KEEP_FROM_WRITING = ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]
_WRITE = ["RowExclusiveLock"]
_INDEX_NOT_CONCURRENTLY = re.compile(
    r"\s*(CREATE\s+(UNIQUE\s+)?INDEX|DROP\s+INDEX|REINDEX)(?!.*CONCURRENTLY)", re.I | re.S
)


class _Statements:
    """The database as a migration sees it, which notes what it is told."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute_sql(self, sql: str, *arguments: Any, **options: Any) -> Any:
        self.seen.append(sql)
        return self._db.execute_sql(sql, *arguments, **options)


def apply_watched(settings: DatabaseSettings, db: Database, migration: Migration, folder: Path) -> list[str]:
    """What is wrong with how it locks. ``db`` is a connection of the caller's own."""
    with db.transaction():
        files = files_of(db)
    module: ModuleType = migration.load()
    atomic = getattr(module, "atomic", True)
    problems: list[str] = []
    with migration_runner(settings, folder) as runner:
        statements = _Statements(runner.database)
        with runner.migrator.migration_context(atomic):
            module.up(runner.migrator, statements)
            problems += _held_up(runner.database, files.keys())
        runner.fake(migration.name)
    with db.transaction():
        now = files_of(db)
    problems += [
        f"{table}: is rewritten, while nobody can read or write it"
        for table in files
        if now.get(table, files[table]) != files[table]
    ]
    if not atomic:
        problems += [
            f"{' '.join(sql.split())[:60]}: without CONCURRENTLY nobody can write meanwhile"
            for sql in statements.seen
            if _INDEX_NOT_CONCURRENTLY.match(sql)
        ]
    return problems


def _held_up(db: Any, tables: Any) -> Iterator[str]:
    for table, modes, read, _ in db.execute_sql(_HELD, (_KEEP_FROM_WRITING,)).fetchall():
        if table in tables and read > MOST_ROWS:
            yield f"{table}: {read} rows are read under {modes}; use CONCURRENTLY, or NOT VALID and validate afterwards"
    for table, _, _, written in db.execute_sql(_HELD, (_WRITE,)).fetchall():
        if table in tables and written > MOST_ROWS:
            yield f"{table}: {written} rows are changed in one transaction, and their votes wait; do it in batches"
    (timeout,) = db.execute_sql("SELECT extract(epoch FROM current_setting('lock_timeout')::interval)").fetchone()
    if not 0 < timeout <= LOCK_TIMEOUT_S:
        yield f"lock_timeout is {float(timeout):g} s: while it waits for a lock, all votes wait behind it"
