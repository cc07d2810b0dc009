"""Migrations: up, down and up again leave the same tables, one runner at a time; the models tell the truth."""

import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import msgspec
import pytest
from peewee import PeeweeException
from playhouse.migrations import MigrationError

from models.database import open_database
from models.migrations.runner import migrate_down, migrate_up, migration_status
from models.runtime.settings import DatabaseSettings
from models.tables import RETIRED, TABLES
from tests.models.conftest import admin
from tests.models.given import poll, snapshot

# What Postgres calls the type that a peewee field stands for.
TYPES = {
    "AUTO": "bigint",
    "BIGINT": "bigint",
    "SMALLINT": "smallint",
    "INT": "integer",
    "BOOL": "boolean",
    "TEXT": "text",
    "UUID": "uuid",
    "TIMESTAMPTZ": "timestamp with time zone",
    "JSONB": "jsonb",
    "BIGINT GENERATED ALWAYS AS IDENTITY": "bigint",
}


@pytest.fixture
def blank(settings: DatabaseSettings, database_url: str) -> Iterator[DatabaseSettings]:
    """A database that no migration has touched."""
    name = f"votemill_test_{uuid4().hex[:12]}"
    admin(database_url, f"CREATE DATABASE {name}")
    yield msgspec.structs.replace(settings, url=urlunsplit(urlsplit(settings.url)._replace(path=f"/{name}")))
    admin(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def columns(settings: DatabaseSettings) -> dict[str, dict[str, tuple[str, bool]]]:
    """Table -> column -> (type, may be null); without the runner's own table."""
    database = open_database(settings, "votemill-tests")
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    with database.transaction():
        rows = database.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, NULL), NOT a.attnotnull FROM pg_attribute a "
            "JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' AND c.relname <> 'schema_migration' "
            "JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public' "
            "WHERE a.attnum > 0 AND NOT a.attisdropped",
        )
        for table, column, kind, nullable in rows:
            found.setdefault(table, {})[column] = (kind, nullable)
    database.close()
    return found


@pytest.mark.proves("E7")
def test_up_down_and_up_again_leave_the_same_tables(blank):
    names = migrate_up(blank)
    after_up = columns(blank)
    assert names[0] == "0001_initial"
    assert migrate_up(blank) == []
    assert migrate_down(blank, to=0) == names[::-1]
    assert columns(blank) == {}
    assert migrate_up(blank) == names
    assert columns(blank) == after_up


@pytest.mark.proves("E7")
def test_each_migration_can_be_reverted_by_itself(blank):
    names = migrate_up(blank)
    for number in range(len(names), 0, -1):
        assert migrate_down(blank) == [names[number - 1]]
    assert all(migration.applied is None for migration in migration_status(blank))


@pytest.mark.proves("E7", "SC-002")
def test_going_back_too_far_costs_no_poll(blank):
    migrate_up(blank)
    database = open_database(blank, "votemill-tests")
    kept = poll(database)
    with pytest.raises(PeeweeException, match="there are polls and votes"):
        migrate_down(blank, to=0)
    migrate_up(blank)
    assert snapshot(database, kept.poll_id) == kept
    database.close()


def test_up_stops_at_the_number_asked_for(blank):
    assert migrate_up(blank, to=1) == ["0001_initial"]
    with pytest.raises(MigrationError):
        migrate_up(blank, to=9_999)


@pytest.mark.proves("E7")
def test_two_deployments_at_once_apply_each_migration_once(blank):
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate_up(blank))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(applied)[:2] == [[], []]
    assert len(sorted(applied)[2]) == len(migration_status(blank))


def test_the_models_say_what_the_tables_hold(settings):
    described = {
        table._meta.table_name: {field.column_name: (_type(field), field.null) for field in table._meta.sorted_fields}
        for table in TABLES
    }
    # What is retired stays in the database for one version more, and nobody has to fill it.
    for table, names in columns(settings).items():
        if table not in RETIRED:
            kept = {name: kind for name, kind in names.items() if f"{table}.{name}" not in RETIRED}
            assert described.pop(table) == kept
    assert described == {}


def _type(field) -> str:
    element = getattr(field, "_ArrayField__field", None)
    return f"{TYPES[element.field_type]}[]" if element is not None else TYPES[field.field_type]
