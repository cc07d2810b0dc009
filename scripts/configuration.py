"""scripts/config: what the settings are in an environment, where they come from, and whether they can be used.

It reads settings.toml and this shell's VOTEMILL_... variables, as a process that started here would. Of secrets it
shows no more than a server's name.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from models.runtime import reading, tls
from models.runtime.certificates import days_left
from models.runtime.expectations import is_secret
from models.runtime.settings import EX_CONFIG, SECRETS, SECTIONS, SETTINGS_FILE, Settings, SettingsError, load

_VALUE = "a-value-that-stands-for-a-secret-0001"
STAND_INS = {
    "VOTEMILL_SECRETS__PROVIDER": "environment",  # pragma: allowlist secret
    "VOTEMILL_DATABASE__URL": f"postgresql://votemill:{_VALUE}@database/votemill",
    "VOTEMILL_BROKER__URL": f"amqp://votemill:{_VALUE}@broker/%2F",
    "VOTEMILL_REDIS__URL": f"redis://:{_VALUE}@redis/0",
    "VOTEMILL_DATABASE__PLAIN_ALLOWED": "true",
    "VOTEMILL_BROKER__PLAIN_ALLOWED": "true",
    "VOTEMILL_REDIS__PLAIN_ALLOWED": "true",
    "VOTEMILL_SECURITY__SIGNING_KEYS": f'@json ["{_VALUE}"]',
    "VOTEMILL_SECURITY__ORIGINS": '@json ["https://polls.example"]',
    "VOTEMILL_AUDIT__ADDRESS_KEY": _VALUE,
}


def main() -> int:
    """0, or 78 (EX_CONFIG) when an environment's settings can't be used."""
    options = _parser().parse_args()
    if options.without_secrets:
        for name, value in STAND_INS.items():
            os.environ.setdefault(name, value)
    here = os.environ.get("VOTEMILL_ENV", "development")
    try:
        match options.command:
            case "check":
                return check(options.environments or [here], options.servers)
            case "print":
                print_settings(load(environment=options.environment or here))
            case "diff":
                print_differences(load(environment=options.environment), load(environment=options.other or here))
    except SettingsError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return EX_CONFIG
    return 0


def check(environments: list[str], servers: bool = False) -> int:
    """Say of each environment that its settings are usable, or every problem that they have, ``servers`` included."""
    code = 0
    for environment in environments:
        try:
            settings = load(environment=environment)
            said = certificates(settings) if servers else []
            print(f"✓ {environment}", *said, sep="\n  ")
        except SettingsError as error:
            print(f"✗ {environment}", *error.problems, sep="\n  ")
            code = EX_CONFIG
    return code


def certificates(settings: Settings) -> list[str]:
    """How long those of the servers are good that we speak TLS to; one line for each.

    :raises SettingsError: some can't be seen, or are of no use
    """
    found, problems = [], []
    for name in ("database", "broker", "redis"):
        server = getattr(settings, name)
        if server.ca_file:
            try:
                found.append(f"{name}: a certificate for {days_left(name, server):.0f} more days")
            except OSError as error:
                problems.append(tls.explained(name, error))
    if problems:
        raise SettingsError(problems)
    return found


def print_settings(settings: Settings) -> None:
    """Every key with its value and where that comes from: a variable, the environment's table, or the defaults."""
    for (section, key), kind, value in _keys(settings):
        print(f"{section}.{key} = {shown(kind, value)}  # {_source(settings, section, key, value)}")


def print_differences(one: Settings, other: Settings) -> None:
    """The keys whose values differ; one line for each."""
    for (path, kind, value), (_, _, others) in zip(_keys(one), _keys(other), strict=True):
        if value != others:
            name = ".".join(path)
            print(f"{name}: {shown(kind, value)} ({one.environment}), {shown(kind, others)} ({other.environment})")


def shown(kind: Any, value: Any) -> str:
    """A value for people; a secret is hidden but for the names of servers."""
    if not is_secret(kind):
        return str(msgspec.json.encode(value), "utf-8")
    if not value:
        return "(empty)"
    servers = [urlsplit(url) for url in value.split(",")] if isinstance(value, str) else []
    if any(server.scheme and server.hostname for server in servers):
        return ",".join(f"{server.scheme}://(hidden)@{server.hostname or ''}" for server in servers)
    return "(hidden)"


def _keys(settings: Settings) -> Iterator[tuple[tuple[str, str], Any, Any]]:
    for name, section in SECTIONS.items():
        for field in msgspec.structs.fields(section):
            yield (name, field.name), field.type, getattr(getattr(settings, name), field.name)


def _source(settings: Settings, section: str, key: str, value: Any) -> str:
    name = reading.variable(section, key)
    for variable in os.environ:
        if variable == name or variable.startswith(f"{name}__"):
            return variable
    tables = reading.tables(SETTINGS_FILE)
    written = {table: tables.get(table, {}).get(section, {}) for table in (settings.environment, reading.DEFAULT)}
    if f"{section}.{key}" in SECRETS and value not in [found.get(key) for found in written.values()]:
        return settings.secrets.provider
    return next((f"[{table}.{section}]" for table, found in written.items() if key in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/config", description=__doc__)
    parser.add_argument(
        "--without-secrets", action="store_true", help="put stand-ins where a deployment brings secrets and addresses"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="name every problem; exit code 78 when there is one")
    checking.add_argument("--servers", action="store_true", help="ask the servers for their certificates, too")
    checking.add_argument("environments", nargs="*", help="default: that of VOTEMILL_ENV, or development")
    printing = commands.add_parser("print", help="every key, its value, and where that comes from")
    printing.add_argument("environment", nargs="?")
    differing = commands.add_parser("diff", help="what is different in another environment")
    differing.add_argument("environment")
    differing.add_argument("other", nargs="?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
