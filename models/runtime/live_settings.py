"""Settings that operators change while processes run: which these are, and how a change is checked and taken over."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from models.runtime.contradictions import contradictions
from models.runtime.expectations import expected, is_secret, nearest
from models.runtime.settings import SECTIONS, Settings, SettingsError

log = logging.getLogger(__name__)

# A key, or a section with everything in it but what is read only at a start or a connect.
CHANGEABLE = (
    "limits",
    "log.level",
    "room.results_per_s",
    "room.tick_per_member_s",
    "room.tick_s",
    "shed",
    "worker.tick_s",
)
_NOT_CHANGEABLE = ("limits.unlimited",)


class Changes(msgspec.Struct, frozen=True):
    """What operators have changed, by key. A later set has a larger ``version`` (microseconds since the epoch)."""

    version: int = 0
    values: dict[str, Any] = {}


class LiveSettings:
    """The settings of this process: those it started with, and over them what operators have changed since."""

    def __init__(self, started_with: Settings) -> None:
        self.started_with = started_with
        self.current = started_with
        self.changes = Changes()
        self._watchers: list[Callable[[Settings], None]] = []

    def watch(self, take_over: Callable[[Settings], None]) -> None:
        """Have ``take_over`` called with all settings whenever one has changed."""
        self._watchers.append(take_over)

    def take_over(self, changes: Changes) -> None:
        """Make exactly these hold, all of them or, where this process can't use one, none."""
        if changes.version <= self.changes.version:
            return
        try:
            wanted = changed(self.started_with, changes.values)
        except SettingsError as error:
            # Of a version that knows other keys: this one stays as it is.
            log.error("settings_not_changed", extra={"version": changes.version, "problems": error.problems})
            wanted = self.current
        else:
            log.info("settings_changed", extra={"version": changes.version, "keys": sorted(changes.values)})
        self.changes = changes
        if wanted == self.current:
            return
        self.current = wanted
        for take_over in self._watchers:
            take_over(wanted)


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """``settings`` with other values for changeable keys such as ``limits.votes_per_session``; None changes nothing.

    :raises SettingsError: with every problem at once; then nothing is to be changed
    """
    return replaced(settings, values, dict(changeable_keys()))


def replaced(settings: Settings, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> Settings:
    """``settings`` with other values for keys of ``kinds``, each of its type; None changes nothing.

    :raises SettingsError: with every problem at once
    """
    problems: list[str] = []
    wanted = settings
    for key, value in values.items():
        if key not in kinds:
            problems.append(f"{key}: can't be changed at runtime{nearest(key, kinds)}")
            continue
        if value is None:
            continue
        try:
            wanted = _replaced(wanted, key.split("."), msgspec.convert(value, kinds[key]))
        except msgspec.ValidationError:
            got = "" if is_secret(kinds[key]) else f"; got {value!r}"
            problems.append(f"{key}: expected {expected(kinds[key])}{got}")
    # What was there at the start isn't the change's fault.
    problems += sorted(set(contradictions(wanted)) - set(contradictions(settings)))
    if problems:
        raise SettingsError(problems)
    return wanted


def changeable_keys() -> Iterator[tuple[str, Any]]:
    """Each key that can be changed at runtime, with its type."""
    for key, kind in _keys("", SECTIONS.items()):
        inside = key.startswith(tuple(f"{section}." for section in CHANGEABLE))
        if (inside or key in CHANGEABLE) and key not in _NOT_CHANGEABLE:
            yield key, kind


def value_of(settings: Settings, key: str) -> Any:
    """The value that holds now."""
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _keys(prefix: str, fields: Any) -> Iterator[tuple[str, Any]]:
    for name, kind in fields:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _keys(f"{prefix}{name}.", [(field.name, field.type) for field in msgspec.structs.fields(kind)])
        else:
            yield f"{prefix}{name}", kind


def _replaced(struct: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return msgspec.structs.replace(struct, **{name: _replaced(getattr(struct, name), rest, value) if rest else value})
