"""Reads settings.toml and the environment with dynaconf, and converts each key to its type, noting every problem."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
from dynaconf import Dynaconf
from dynaconf.utils.parse_conf import parse_conf_data

from models.runtime.expectations import expected, is_secret, nearest

PREFIX = "VOTEMILL"
DEFAULT = "default"  # the table of settings.toml that holds for every environment

# A variable's value that begins so is an instruction to dynaconf, such as ``@json [...]``.
_INSTRUCTION = re.compile(r"@[a-z_]+ ")


class Unreadable(Exception):
    """Variables can't be read. ``problems`` holds one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def tables(file: Path) -> dict[str, Any]:
    """The file as it is written: one table for each environment.

    :raises OSError: it can't be read
    :raises ValueError: it isn't TOML
    """
    return tomllib.loads(file.read_text())


def read(file: Path, environment: str) -> dict[str, Any]:
    """The values that hold in ``environment``, unchecked; a variable such as VOTEMILL_NODE__PORT wins over the file.

    :raises Unreadable: with every variable that dynaconf can't read
    """
    source = Dynaconf(
        settings_files=[str(file)],
        environments=True,
        env=environment,
        envvar_prefix=PREFIX,
        env_switcher=f"{PREFIX}_ENV",
    )
    try:
        raw: dict[str, Any] = _bare(source.as_dict())
    except Exception as error:  # dynaconf's own errors have no common class, and hold the value: it may be a secret
        raise Unreadable(_unreadable_variables() or [f"a value can't be read ({type(error).__name__})"]) from None
    raw.pop("env", None)
    return raw


def _unreadable_variables() -> list[str]:
    """Which variables dynaconf stumbles over, and never what is in them."""
    problems = []
    for name, value in os.environ.items():
        if name.startswith(f"{PREFIX}_"):
            try:
                parse_conf_data(value, tomlfy=True)
            except Exception as error:
                problems.append(f"{name}: can't be read ({type(error).__name__}); its value is not shown")
    return problems


def variable(*path: str) -> str:
    """The environment variable that overrides a key: VOTEMILL_NODE__PORT for ``node``, ``port``."""
    return f"{PREFIX}_{'__'.join(path)}".upper()


def unread_tables(tables: Mapping[str, Any], environments: Sequence[str]) -> list[str]:
    """Problems with tables that no environment reads; dynaconf would pass over them in silence."""
    known = (DEFAULT, *environments)
    return [f"[{name}]: unknown environment{nearest(name, known)}" for name in tables if name not in known]


def convert(
    kinds: Mapping[str, type[msgspec.Struct]],
    raw: Mapping[str, Any],
    defaults: Mapping[str, Any],
    problems: list[str],
) -> dict[str, Any]:
    """One struct for each section. Where a value is missing or wrong the default takes its place, so that whoever looks
    for contradictions finds those of the other values too; without a usable default the section is left out."""
    problems += [f"{name}: unknown section{_meant(name, kinds)}" for name in raw if name not in kinds]
    sections = {
        name: _struct((name,), kind, raw.get(name, {}), defaults.get(name, {}), problems)
        for name, kind in kinds.items()
    }
    return {name: section for name, section in sections.items() if section is not None}


def _struct(path: tuple[str, ...], kind: Any, raw: Any, defaults: Any, problems: list[str]) -> Any:
    """A table and the tables in it; None when a value is missing that has no default."""
    name = ".".join(path)
    if not isinstance(raw, dict):
        problems.append(f"{name}: expected a table; got {raw!r}")
        raw = defaults
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    problems += [f"{name}.{key}: unknown key{nearest(key, fields)}" for key in raw if key not in fields]
    values = {}
    for key, type_ in fields.items():
        if key not in raw:
            problems.append(f"{name}.{key}: missing; expected {expected(type_)}")
            value = defaults.get(key)
        else:
            value = raw[key]
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
            values[key] = _struct((*path, key), type_, value, defaults.get(key, {}), problems)
        elif value is not None:
            values[key] = _value((*path, key), type_, value, defaults.get(key), problems)
    complete = values.keys() == fields.keys() and None not in values.values()
    return kind(**values) if complete else None


def _value(path: tuple[str, ...], kind: Any, raw: Any, default: Any, problems: list[str]) -> Any:
    text = os.environ.get(variable(*path))
    # A variable that holds a text which looks like a number: dynaconf has made one of it.
    candidates = [raw] if text is None or _INSTRUCTION.match(text) else [raw, text]
    for candidate in candidates:
        try:
            return msgspec.convert(candidate, kind)
        except msgspec.ValidationError:
            continue
    got = "something else, not shown here" if is_secret(kind) else repr(raw)
    problems.append(f"{'.'.join(path)}: expected {expected(kind)}; got {got}")
    try:
        return msgspec.convert(default, kind)
    except msgspec.ValidationError:
        return None


def _meant(name: str, kinds: Mapping[str, type[msgspec.Struct]]) -> str:
    """The nearest section or, for VOTEMILL_NODE_PORT with one underscore too few, the variable."""
    variables = {
        f"{section}_{key}": variable(section, key) for section in kinds for key in kinds[section].__struct_fields__
    }
    if found := get_close_matches(name, variables, n=1, cutoff=0.85):
        return f"; did you mean {variables[found[0]]}?"
    return nearest(name, kinds)


def _bare(value: Any) -> Any:
    """Dynaconf's boxes as plain Python values, with names in lower case."""
    if isinstance(value, dict):
        return {str(key).lower(): _bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return value
