"""What PostgreSQL's catalog says of the tables, and what of it a version that knows only the former can't bear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models.database import Database

# The runner's own table is none of ours.
_OURS = "c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'schema_migration'"
_COLUMNS = f"""
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE {_OURS} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum
"""  # nosec B608: of constants
_RULES = f"""
SELECT c.relname, pg_get_constraintdef(r.oid), true
FROM pg_constraint r JOIN pg_class c ON c.oid = r.conrelid WHERE {_OURS}
UNION
SELECT c.relname, pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END, i.indisunique
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE {_OURS}
"""  # nosec B608: of constants
_FILES = f"SELECT c.relname, pg_relation_filenode(c.oid) FROM pg_class c WHERE {_OURS}"  # nosec B608: of constants


@dataclass(frozen=True)
class Column:
    kind: str
    needed: bool  # not null
    filled: bool  # by a default when nobody else does


@dataclass(frozen=True)
class Schema:
    """Tables with their columns, and their constraints and indexes: those that narrow what can be written, or not."""

    tables: dict[str, dict[str, Column]]
    rules: frozenset[tuple[str, str, bool]]


def read_schema(db: Database) -> Schema:
    with db.transaction():
        tables: dict[str, dict[str, Column]] = {}
        for table, name, kind, needed, filled in db.execute(_COLUMNS):
            tables.setdefault(table, {})[name] = Column(kind, needed, filled)
        return Schema(tables, frozenset((table, rule, narrows) for table, rule, narrows in db.execute(_RULES)))


def files_of(db: Database) -> dict[str, int]:
    """Each table's file: another one, and the table has been rewritten."""
    return dict(db.execute(_FILES).fetchall())


def contracted(before: Schema, after: Schema, retired: frozenset[str]) -> Iterator[str]:
    """What the version that was made for ``before`` and uses nothing of ``retired`` can't bear in ``after``."""
    for table, columns in before.tables.items():
        if table in retired:
            continue
        if table not in after.tables:
            yield f"{table}: is taken away, and the version in service uses it"
            continue
        now = after.tables[table]
        for name, column in columns.items():
            if f"{table}.{name}" not in retired:
                yield from _column_contracted(f"{table}.{name}", column, now.get(name))
        for name in now.keys() - columns.keys():
            if now[name].needed and not now[name].filled:
                yield f"{table}.{name}: the version in service doesn't fill it; let it be null or have a default"
    for table, rule, narrows in after.rules - before.rules:
        if narrows and table in before.tables:
            yield f"{table}: the version in service doesn't know of {rule}"


def _column_contracted(name: str, was: Column, now: Column | None) -> Iterator[str]:
    if now is None:
        yield f"{name}: is taken away or renamed, and the version in service uses it"
        return
    if now.kind != was.kind:
        yield f"{name}: was {was.kind} and is {now.kind}; add another column instead"
    if now.needed and not was.needed:
        yield f"{name}: may be null no more, and the version in service may leave it so"
    if was.filled and not now.filled:
        yield f"{name}: has lost its default, which the version in service may count on"
