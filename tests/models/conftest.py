"""A database of its own for these tests: made once per run, migrated, emptied before each test, dropped at the end."""

from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import msgspec
import psycopg2
import pytest

from models.database import Database, open_database
from models.migrations.runner import migrate_up
from models.runtime.settings import DatabaseSettings
from models.tables import TABLES

PATIENT = DatabaseSettings(
    url="",
    ca_file="",
    certificate_file="",
    key_file="",
    plain_allowed=False,
    replica_url="",
    replica_max_lag_s=5,
    pool_size=6,
    pool_wait_s=5,
    connect_timeout_s=3,
    statement_timeout_s=8,
    call_deadline_s=12,
)


def admin(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


@pytest.fixture(scope="session")
def empty_database_settings(database_url: str) -> Iterator[DatabaseSettings]:
    """A database without any tables."""
    name = f"votemill_test_{uuid4().hex[:12]}"
    admin(database_url, f"CREATE DATABASE {name}")
    parts = urlsplit(database_url)
    yield msgspec.structs.replace(PATIENT, url=urlunsplit(parts._replace(path=f"/{name}")))
    admin(database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def settings(empty_database_settings: DatabaseSettings) -> DatabaseSettings:
    migrate_up(empty_database_settings)
    return empty_database_settings


@pytest.fixture(scope="session")
def shared_database(settings: DatabaseSettings) -> Iterator[Database]:
    database = open_database(settings, "votemill-tests")
    yield database
    database.close()


@pytest.fixture
def database(shared_database: Database) -> Database:
    with shared_database.transaction():
        names = ", ".join(table._meta.table_name for table in TABLES)
        shared_database.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
    return shared_database
