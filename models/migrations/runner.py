"""Runs migrations with playhouse's ``Runner``: one transaction each, recorded in a table, one runner at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from playhouse.migrations import Migration, MigrationError, Runner

from models import accounts
from models.database import Database, open_database
from models.runtime.settings import DatabaseSettings

FOLDER = Path(__file__).parent

# Playhouse's runner takes no lock: two deployments at once would both see the same migration pending.
_LOCK_KEY = 6_864_553
_LOCK = "SELECT pg_advisory_lock(%s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s)"
# A migration that can't get its table lock soon fails, instead of making every vote queue up behind it.
LOCK_TIMEOUT_S = 5
_LOCK_TIMEOUT = f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"
_STATEMENT_LIMIT_S = 3600.0
_GROUPS = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"


def migrate_up(settings: DatabaseSettings, to: int | None = None, folder: Path = FOLDER) -> list[str]:
    """Apply what is pending, up to and including number ``to``, and grant what the accounts may do in the tables.

    Returns the names applied.
    """
    with migration_runner(settings, folder) as runner:
        applied: list[str] = runner.up(None if to is None else _named(runner, to))
        _grant(runner)
        return applied


def migrate_down(settings: DatabaseSettings, to: int | None = None, folder: Path = FOLDER) -> list[str]:
    """Revert the newest migration, or all above number ``to`` (0: all of them). Returns the names reverted."""
    with migration_runner(settings, folder) as runner:
        if to is None:
            return runner.down()
        above = [migration.name for migration in runner.status() if migration.applied and migration.idx > to]
        return runner.down(above[0]) if above else []


def migration_status(settings: DatabaseSettings) -> list[Migration]:
    """Every migration in order; ``applied`` is None for one that is pending."""
    with migration_runner(settings) as runner:
        return runner.status()


def _grant(runner: Runner) -> None:
    """To those groups that exist: an installation may do with one account for everything."""
    db = runner.database
    groups = [name for (name,) in db.execute_sql(_GROUPS, ([*accounts.TABLES, accounts.READER],))]
    with db.atomic():
        for statement in accounts.grants(groups, db.get_tables()):
            db.execute_sql(statement)


def _named(runner: Runner, number: int) -> str:
    for migration in runner.migrations():
        if migration.idx == number:
            return migration.name
    raise MigrationError(f"there is no migration with number {number}")


@contextmanager
def migration_runner(settings: DatabaseSettings, folder: Path = FOLDER) -> Iterator[Runner]:
    """A runner on one connection, which holds the lock."""
    database = _patient(settings)
    pool = database.peewee_database
    try:
        with pool.connection_context():
            database.execute(_LOCK, (_LOCK_KEY,))
            database.execute(_LOCK_TIMEOUT)
            yield Runner(pool, directory=str(folder))
            database.execute(_UNLOCK, (_LOCK_KEY,))
    finally:
        database.close()


def _patient(settings: DatabaseSettings) -> Database:
    """Building an index may take longer than any statement of a running service."""
    patient = msgspec.structs.replace(
        settings, statement_timeout_s=_STATEMENT_LIMIT_S, call_deadline_s=_STATEMENT_LIMIT_S
    )
    return open_database(patient, "votemill-migrations")
