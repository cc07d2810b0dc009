"""scripts/migration-check refuses what loses votes or holds them up, and lets the rest through."""

import shutil
from pathlib import Path

import pytest

from models.migrations.runner import FOLDER
from models.runtime.settings import DatabaseSettings
from scripts.migrations.check import Check
from scripts.migrations.released import Released, UnknownVersion, released_at, retired_in
from tests.models.conftest import empty_database_settings

__all__ = ["empty_database_settings"]
pytestmark = pytest.mark.proves("E7")
VOTES = 3_000  # more than may be read or written under a lock
RELEASED = Released(frozenset({"0001_initial", "0002_retired_polls"}))

INDEX = "CREATE INDEX {} ON votes (seq)"

# What the version in service can't bear, the way back, and what is said of it; all are tried at once.
CONTRACTED = [
    ("ALTER TABLE polls DROP COLUMN creator_address",
     "ALTER TABLE polls ADD COLUMN creator_address text NOT NULL DEFAULT ''",
     "polls.creator_address: is taken away or renamed, and the version in service uses it"),
    ("ALTER TABLE polls RENAME question TO asked", "ALTER TABLE polls RENAME asked TO question",
     "polls.question: is taken away or renamed, and the version in service uses it"),
    ("ALTER TABLE polls ALTER reopened_count TYPE bigint", "ALTER TABLE polls ALTER reopened_count TYPE integer",
     "polls.reopened_count: was integer and is bigint; add another column instead"),
    ("ALTER TABLE participants ALTER nickname SET NOT NULL", "ALTER TABLE participants ALTER nickname DROP NOT NULL",
     "participants.nickname: may be null no more, and the version in service may leave it so"),
    ("ALTER TABLE polls ALTER opened_at_us DROP DEFAULT", "ALTER TABLE polls ALTER opened_at_us SET DEFAULT 0",
     "polls.opened_at_us: has lost its default, which the version in service may count on"),
    ("ALTER TABLE polls ADD COLUMN spare text NOT NULL", "ALTER TABLE polls DROP COLUMN spare",
     "polls.spare: the version in service doesn't fill it; let it be null or have a default"),
    ("ALTER TABLE votes ADD CONSTRAINT small CHECK (seq < 9)", "ALTER TABLE votes DROP CONSTRAINT small",
     "votes: the version in service doesn't know of CHECK ((seq < 9))"),
    ("ALTER TABLE nodes RENAME TO servers", "ALTER TABLE servers RENAME TO nodes",
     "nodes: is taken away, and the version in service uses it"),
]  # fmt: skip
HELD_UP = [
    (INDEX.format("votes_seq"), "DROP INDEX votes_seq", f"votes: {VOTES} rows are read under ShareLock"),
    ("UPDATE participants SET connected = false", "SELECT 1",
     f"participants: {VOTES} rows are changed in one transaction"),
    ("ALTER TABLE tallies ALTER votes TYPE integer[]", "ALTER TABLE tallies ALTER votes TYPE bigint[]",
     "tallies: is rewritten"),
    ("SET lock_timeout = 0", "SELECT 1", "lock_timeout is 0 s"),
    ("CREATE TABLE notes AS SELECT 1 AS id", "DROP TABLE notes", "its way down throws 1 rows of notes away"),
    ("ALTER TABLE polls ADD COLUMN extra uuid DEFAULT gen_random_uuid()", "ALTER TABLE polls DROP COLUMN extra",
     "polls: is rewritten"),
    ("SELECT 1", "DELETE FROM rejected_votes; UPDATE polls SET question = 'Lost?'", "down: polls held"),
]  # fmt: skip


@pytest.fixture
def settings(empty_database_settings: DatabaseSettings) -> DatabaseSettings:
    return empty_database_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations as they are, and room for more."""
    return Path(shutil.copytree(FOLDER, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")))


def write(folder: Path, name: str, up: str, down: str, more: str = "") -> None:
    functions = [
        f"def {way}(_migrator, db):\n    db.execute_sql({sql!r})\n" for way, sql in (("up", up), ("down", down))
    ]
    (folder / f"{name}.py").write_text(f"{more}\n{''.join(functions)}")


def together(changes: list[tuple[str, str, str]]) -> tuple[str, str]:
    """One way up and one down."""
    return "; ".join(up for up, *_ in changes), "; ".join(down for _, down, _ in reversed(changes))


def refused(settings: DatabaseSettings, folder: Path, released: Released = RELEASED) -> list[str]:
    check = Check(settings, folder, released)
    check.run(VOTES)
    return check.problems


def test_every_migration_goes_down_and_up_again_with_votes_and_under_votes(
    settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Check(settings)
    check.run(VOTES)
    assert check.problems == []
    said = capsys.readouterr().out
    assert said.count("down and up again, nothing lost") == len(check.migrations)
    assert "all but the first down and up again while" in said


def test_what_the_version_in_service_cant_bear_is_refused(settings: DatabaseSettings, folder: Path) -> None:
    write(folder, "9003_new", *together(CONTRACTED))
    found = refused(settings, folder)
    assert {f"9003_new: {message}" for *_, message in CONTRACTED} <= {*found}, found


def test_a_way_down_that_leaves_something_is_refused(settings: DatabaseSettings, folder: Path) -> None:
    write(folder, "9003_new", "ALTER TABLE polls ADD COLUMN spare text", "SELECT 1")
    assert refused(settings, folder)[0] == "9003_new: its way down leaves other tables than before: polls"


def test_what_holds_votes_up_or_loses_what_is_stored_is_refused(settings: DatabaseSettings, folder: Path) -> None:
    write(folder, "9003_new", *together(HELD_UP), 'EXCUSES = {"contract": "is not what is tried here"}')
    plain = INDEX.format("votes_seq_too")
    write(folder, "9004_plain", plain, "DROP INDEX CONCURRENTLY votes_seq_too", "atomic = False")
    found = refused(settings, folder)
    for *_, message in HELD_UP:
        assert any(problem.startswith(f"9003_new: {message}") for problem in found), (message, found)
    assert f"9004_plain: {plain}: without CONCURRENTLY nobody can write meanwhile" in found


def test_what_is_done_as_it_should_be_is_let_through(
    settings: DatabaseSettings, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a column that the version in service has, and uses no more
    add, take_away = "ALTER TABLE polls ADD COLUMN spare text", "ALTER TABLE polls DROP COLUMN spare"
    write(folder, "9003_spare", add, take_away)
    released = Released(RELEASED.migrations | {"9003_spare"}, frozenset({"polls.spare"}))
    # When it is taken away, an index is built beside the votes, and one under a lock, for a reason
    write(folder, "9004_unspare", take_away, add)
    concurrently = INDEX.format("votes_seq").replace("INDEX", "INDEX CONCURRENTLY")
    write(folder, "9005_index", concurrently, "DROP INDEX CONCURRENTLY votes_seq", "atomic = False")
    excuse = 'EXCUSES = {"lock": "nobody votes at night"}'
    write(folder, "9006_excused", INDEX.format("votes_seq_too"), "DROP INDEX votes_seq_too", excuse)
    # Then nothing is refused, and the excuse is shown
    assert refused(settings, folder, released) == []
    assert "Excused: nobody votes at night" in capsys.readouterr().out


def test_the_version_in_service_is_what_git_says() -> None:
    assert retired_in('RETIRED: frozenset[str] = frozenset({"polls.final", "nodes"})') == {"polls.final", "nodes"}
    assert retired_in("TABLES = ()") == frozenset()
    assert "0001_initial" in released_at("HEAD").migrations
    with pytest.raises(UnknownVersion):
        released_at("no-such-commit")
