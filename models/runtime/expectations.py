"""What a key of the settings may hold, in words: for error messages, and for the comments in settings.toml."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from msgspec import inspect


def is_secret(kind: Any) -> bool:
    """Whether values of this type must never be shown."""
    found = inspect.type_info(kind)
    return isinstance(found, inspect.Metadata) and bool((found.extra or {}).get("secret"))


def range_of(kind: Any) -> str:
    """``1..10000``, ``>0..3600``, ``true|false``, ``token|claim|off``; empty where any value of the type will do."""
    match _plain(inspect.type_info(kind)):
        case inspect.IntType() | inspect.FloatType() as number:
            low = f">{number.gt}" if number.gt is not None else "" if number.ge is None else f"{number.ge}"
            high = "" if number.le is None else f"{number.le}"
            return f"{low}..{high}"
        case inspect.BoolType():
            return "true|false"
        case inspect.LiteralType(values=values):
            return "|".join(map(str, values))
    return ""


def expected(kind: Any) -> str:
    """What belongs there, as the end of a sentence: ``an integer, 1..10000``."""
    return _in_words(inspect.type_info(kind))


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?`` for a misspelt name, otherwise nothing."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _plain(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _in_words(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata) and kind.extra_json_schema:
        return str(kind.extra_json_schema["description"])
    match _plain(kind):
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case inspect.IntType(ge=low, le=high):
            return f"an integer, {low}..{'' if high is None else high}"
        case inspect.FloatType(gt=above, ge=low, le=high):
            return f"a number, {low if above is None else f'>{above}'}..{high}"
        case inspect.ListType(item_type=item, min_length=least):
            return f"a list{f' of at least {least}' if least else ''}, each {_in_words(item)}"
        case inspect.StructType(fields=fields):
            return "a table of " + " and ".join(f"{field.name} ({_in_words(field.type)})" for field in fields)
        case inspect.StrType(min_length=least):
            return f"text of at least {least} characters" if least and least > 1 else "text"
    raise TypeError(f"settings have no keys of type {kind}")
