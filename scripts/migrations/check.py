"""Takes every migration down and up again on a database of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import msgspec
import psycopg2
from peewee import PeeweeException
from playhouse.migrations import Migration, MigrationError, Runner

from models.database import Database, open_database
from models.migrations.runner import FOLDER, migrate_down, migrate_up
from models.recount import recount
from models.runtime.settings import DatabaseSettings
from scripts.migrations.catalog import Schema, contracted, read_schema
from scripts.migrations.contents import Digest, bring_back, digests, fill, says_something, set_aside
from scripts.migrations.released import Released
from scripts.migrations.voters import voting
from scripts.migrations.watched import apply_watched
from scripts.stack.progress import say

_PATIENCE_S = 600.0
_LONGEST_PAUSE_S = 5.0  # of a vote under load; what a lock costs is judged without a clock, in watched.py


class Check:
    """One run on one server. ``problems`` are complete sentences, each with the migration's name."""

    def __init__(self, settings: DatabaseSettings, folder: Path = FOLDER, released: Released | None = None) -> None:
        self._server = msgspec.structs.replace(settings, statement_timeout_s=_PATIENCE_S, call_deadline_s=_PATIENCE_S)
        self._folder = folder
        self._released = released or Released()
        self._schemas: list[Schema] = []  # before the first migration, after it, after the second ...
        self.migrations: list[Migration] = []
        self.problems: list[str] = []

    def run(self, votes: int) -> None:
        with self._database() as (settings, db):
            self._walk(settings, db)
        if self.problems:
            return  # what doesn't go up and down without data won't with it
        with self._database() as (settings, db):
            migrate_up(settings, folder=self._folder)
            polls = fill(db, votes)
            self._keeps(settings, db)
            if not self.problems:
                self._bears_load(settings, db, polls, votes)

    @contextmanager
    def _database(self) -> Iterator[tuple[DatabaseSettings, Database]]:
        name = f"votemill_check_{uuid4().hex[:12]}"
        _administer(self._server.url, f"CREATE DATABASE {name}")
        settings = msgspec.structs.replace(self._server, url=_beside(self._server.url, name))
        db = open_database(settings, "votemill-migration-check")
        try:
            yield settings, db
        finally:
            db.close()
            _administer(self._server.url, f"DROP DATABASE {name} WITH (FORCE)")

    def _walk(self, settings: DatabaseSettings, db: Database) -> None:
        """Up, down and up again without data, one after the other."""
        self.migrations = Runner(db.peewee_database, directory=str(self._folder)).migrations()
        self._schemas = [read_schema(db)]
        for migration in self.migrations:
            try:
                migrate_up(settings, migration.idx, self._folder)
                after = read_schema(db)
                migrate_down(settings, folder=self._folder)
                if (undone := read_schema(db)) != self._schemas[-1]:
                    self._refuse(migration, f"its way down leaves {_difference(self._schemas[-1], undone)}")
                migrate_up(settings, migration.idx, self._folder)
            except (MigrationError, PeeweeException) as error:
                self._refuse(migration, str(error))
                return
            self._schemas.append(after)
            for _, rule, _ in after.rules:
                if rule.endswith("INVALID"):
                    self._refuse(migration, f"{rule}: this index was not built to its end")
            if migration.name not in self._released.migrations:
                for problem in contracted(self._schemas[-2], after, self._released.retired):
                    self._refuse(migration, problem, excuse="contract")

    def _keeps(self, settings: DatabaseSettings, db: Database) -> None:
        """Down to nothing and up again, the newest first; each once more by itself in between."""
        everything = digests(db, self._schemas[-1].tables)
        for number in range(len(self.migrations), 0, -1):
            migration, before, after = self.migrations[number - 1], *self._schemas[number - 1 : number + 1]
            began = time.monotonic()
            lasting = {
                table: columns.keys() & after.tables[table].keys()
                for table, columns in before.tables.items()
                if table in after.tables
            }
            kept, full = digests(db, lasting), digests(db, after.tables)
            if not self._goes_down(settings, db, migration, before, after):
                return
            self._compare(migration, "down", kept, digests(db, lasting))
            for problem in apply_watched(settings, db, migration, self._folder):
                self._refuse(migration, problem, excuse="lock")
            bring_back(db, after.tables)
            self._compare(migration, "up again", kept, digests(db, lasting))
            if digests(db, after.tables) == full:
                say(f"✓ {migration.name} down and up again, nothing lost  {time.monotonic() - began:.1f} s")
            self._goes_down(settings, db, migration, before, after)
        migrate_up(settings, folder=self._folder)
        bring_back(db, self._schemas[-1].tables)
        if not self.problems:
            self._compare(
                self.migrations[-1], "all down and up again", everything, digests(db, self._schemas[-1].tables)
            )

    def _goes_down(
        self, settings: DatabaseSettings, db: Database, migration: Migration, before: Schema, after: Schema
    ) -> bool:
        """Take a migration back, whether that was possible. One that refuses to lose what its tables hold may do so."""
        losses = list(self._would_lose(db, before, after))
        try:
            migrate_down(settings, folder=self._folder)
        except PeeweeException as refusal:
            new = [table for table in after.tables if table not in before.tables]
            if not new:
                self._refuse(migration, f"can't go down: {refusal}")
                return False
            set_aside(db, new)
            return self._goes_down(settings, db, migration, before, after)
        for loss in losses:
            self._refuse(migration, loss, excuse="loss")
        return True

    def _would_lose(self, db: Database, before: Schema, after: Schema) -> Iterator[str]:
        new = {table: columns for table, columns in after.tables.items() if table not in before.tables}
        for table, (rows, _) in digests(db, new).items():
            if rows:
                yield f"its way down throws {rows} rows of {table} away; let it refuse instead"
        for table, columns in before.tables.items():
            for column in after.tables.get(table, {}).keys() - columns.keys():
                if says_something(db, table, column):
                    yield f"its way down throws away what {table}.{column} holds; let it refuse instead"

    def _bears_load(self, settings: DatabaseSettings, db: Database, polls: list[int], votes: int) -> None:
        """Every migration but the first, before which there is nothing to vote in."""
        with voting(db) as voters:
            for number in range(len(self.migrations), 1, -1):
                self._goes_down(settings, db, self.migrations[number - 1], *self._schemas[number - 1 : number + 1])
            migrate_up(settings, folder=self._folder)
        bring_back(db, self._schemas[-1].tables)
        if lost := voters.lost(db):
            self.problems.append(f"votes were lost under load: {lost[:3]}")
        if voters.longest_s > _LONGEST_PAUSE_S:
            self.problems.append(f"a vote waited {voters.longest_s:.1f} s under load")
        with db.transaction():
            (stored,) = db.execute("SELECT count(*) FROM votes WHERE poll_id = ANY(%s)", (polls,)).fetchone()
        if stored != votes or recount(db):
            self.problems.append(f"of {votes} votes {stored} are left, and {len(recount(db))} tallies are wrong")
        say(
            f"✓ all but the first down and up again while {voters.votes} votes came in; the slowest was stored after"
            f" {voters.longest_s:.2f} s"
        )

    def _compare(
        self, migration: Migration, when: str, wanted: Mapping[str, Digest], found: Mapping[str, Digest]
    ) -> None:
        for table in wanted:
            if found.get(table) != wanted[table]:
                self._refuse(migration, f"{when}: {table} held {wanted[table]} and holds {found.get(table)}")

    def _refuse(self, migration: Migration, problem: str, excuse: str = "") -> None:
        excuses = getattr(migration.load(), "EXCUSES", {})
        if excuse in excuses:
            say(f"! {migration.name}: {problem}. Excused: {excuses[excuse]}")
        else:
            self.problems.append(f"{migration.name}: {problem}")


def _difference(wanted: Schema, found: Schema) -> str:
    tables = wanted.tables.keys() ^ found.tables.keys() or {
        table for table in wanted.tables if wanted.tables[table] != found.tables[table]
    }
    rules = {f"{table}: {rule}" for table, rule, _ in wanted.rules ^ found.rules}
    return f"other tables than before: {', '.join(sorted(tables or rules))}"


def _beside(url: str, name: str) -> str:
    """Another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _administer(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()
