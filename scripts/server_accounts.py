"""scripts/accounts: makes the accounts of models/accounts.py, with passwords of their own, for servers of any kind.

Into FOLDER it writes ``postgres.sql``, ``rabbitmq.json`` and ``redis.acl``. The passwords, made the first time and then
kept, lie in FOLDER/secrets, one file for each account of each server.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping

from models import accounts
from scripts.stack.run_folder import ROOT, RunFolder, write_private

POLICIES = ROOT / "docker" / "rabbitmq" / "policies.json"
_ANYTHING = (".*", ".*", ".*")

_MAKE_ROLE = "DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"


def passwords(folder: RunFolder, server: str, names: Mapping[str, object]) -> dict[str, str]:
    """For accounts of a server (database, broker, redis), by name."""
    return {name: folder.secret(f"{server}-{name}") for name in names}


def database_statements(secrets: Mapping[str, str]) -> Iterator[str]:
    """SQL for an administrator, once the database is there; harmless when repeated. What the groups may do in the
    tables is granted with the migrations.
    """
    for group in (*accounts.TABLES, accounts.READER):
        yield _MAKE_ROLE.format(name=group)
    for name, password in secrets.items():
        yield _MAKE_ROLE.format(name=name)
        yield f"ALTER ROLE {name} LOGIN PASSWORD '{password}'"
        if groups := accounts.GROUPS.get(name):
            yield f"GRANT {', '.join(groups)} TO {name}"
    if accounts.OWNER in secrets:
        yield f"ALTER DATABASE votemill OWNER TO {accounts.OWNER}"
    yield "REVOKE ALL ON DATABASE votemill FROM PUBLIC"
    yield f"GRANT CONNECT ON DATABASE votemill TO {', '.join((*accounts.TABLES, accounts.READER))}"


def broker_definitions(secrets: Mapping[str, str]) -> dict[str, object]:
    """Accounts and policies for RabbitMQ, which makes no guest then. One that models/accounts.py lacks may do all."""
    defined: dict[str, object] = json.loads(POLICIES.read_text())
    defined["users"] = [
        {
            "name": name,
            "password_hash": _broker_hash(password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "" if name in accounts.PERMISSIONS else "administrator",
        }
        for name, password in secrets.items()
    ]
    defined["permissions"] = [
        {"user": name, "vhost": "/"}
        | dict(zip(("configure", "write", "read"), accounts.PERMISSIONS.get(name, _ANYTHING), strict=True))
        for name in secrets
    ]
    return defined


def redis_rules(secrets: Mapping[str, str]) -> str:
    """An ACL file. Without a password one learns whether Redis answers, for health checks, and no more."""
    lines = ["user default on nopass +ping"]
    for name, password in secrets.items():
        lines.append(f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} {accounts.RULES[name]}")
    return "\n".join(lines) + "\n"


def _broker_hash(password: str) -> str:
    """RabbitMQ's form: four bytes of salt, then SHA-256 over the salt and the password, in base64.

    The salt comes from the password, so that the definitions stay the same from start to start.
    """
    salt = hashlib.sha256(b"salt" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def write(folder: RunFolder) -> None:
    """The three files."""
    roles = {accounts.OWNER: (), **accounts.GROUPS}
    sql = "".join(f"{statement};\n" for statement in database_statements(passwords(folder, "database", roles)))
    write_private(folder.path / "postgres.sql", sql)
    definitions = broker_definitions(passwords(folder, "broker", accounts.PERMISSIONS))
    write_private(folder.path / "rabbitmq.json", json.dumps(definitions, indent=2))
    write_private(folder.path / "redis.acl", redis_rules(passwords(folder, "redis", accounts.RULES)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/accounts", description=__doc__)
    parser.add_argument("folder", help="keep it as you keep keys")
    folder = RunFolder(parser.parse_args().folder)
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.secrets.mkdir(mode=0o700, exist_ok=True)
    write(folder)
    print(f"✓ postgres.sql, rabbitmq.json and redis.acl in {folder.path}, passwords in {folder.secrets}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
