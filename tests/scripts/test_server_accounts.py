"""scripts/accounts: the files that make the accounts, and their passwords."""

import json
import stat
from pathlib import Path

import pytest

from models import accounts
from models.tables import TABLES
from scripts import server_accounts
from scripts.stack.run_folder import RunFolder

FILES = ("postgres.sql", "rabbitmq.json", "redis.acl")


def made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("sys.argv", ["accounts", str(folder)])
    assert server_accounts.main() == 0
    return {name: (folder / name).read_text() for name in FILES}


@pytest.mark.proves("FR-024")
def test_every_account_is_made_and_made_again_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the files, made once
    folder = tmp_path / "accounts"
    first = made(folder, monkeypatch)
    # Then nobody else can read them, and they name every account
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in FILES)
    for account in (accounts.OWNER, *accounts.GROUPS):
        assert f"ALTER ROLE {account} LOGIN PASSWORD" in first["postgres.sql"]
    known = {user["name"]: user["tags"] for user in json.loads(first["rabbitmq.json"])["users"]}
    assert known == dict.fromkeys(accounts.PERMISSIONS, "")
    assert [line.split()[1] for line in first["redis.acl"].splitlines()] == ["default", *accounts.RULES]
    # And no password stands where a hash will do
    for secret in RunFolder(folder).secrets.iterdir():
        assert secret.read_text() not in first["rabbitmq.json"] + first["redis.acl"]
    # And a second time gives the same
    assert made(folder, monkeypatch) == first


def test_every_table_is_somebodys() -> None:
    named = {table for rights in accounts.TABLES.values() for table in rights}
    assert named == {table._meta.table_name for table in TABLES}
