"""Settings that operators change while processes run: which these are, and how a change is checked and taken over."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from models.runtime.contradictions import contradictions
from models.runtime.expectations import expected, is_secret, nearest
from models.runtime.logs import LogLevels
from models.runtime.settings import SECTIONS, Settings, SettingsError

log = logging.getLogger(__name__)

# A key, or a section with everything in it but what is read only at a start or a connect.
CHANGEABLE = (
    "limits",
    "log.level",
    "log.singles_per_s",
    "log.slow_vote_s",
    "log.vote_sample",
    "room.results_per_s",
    "room.tick_per_member_s",
    "room.tick_s",
    "scaler",
    "shed",
    "worker.tick_s",
)
_NOT_CHANGEABLE = ("limits.unlimited", "scaler.interval_s")


class SetLevel(msgspec.Struct, frozen=True):
    """A log level that an operator has set, for good or ``until_us`` (microseconds since the epoch)."""

    level: str
    until_us: int | None = None

    def holds(self, now_us: int) -> bool:
        return self.until_us is None or now_us < self.until_us


class Changes(msgspec.Struct, frozen=True):
    """What operators have changed, by key, and log levels by logger. A later set has a larger ``version``
    (microseconds since the epoch)."""

    version: int = 0
    values: dict[str, Any] = {}
    levels: dict[str, SetLevel] = {}

    @classmethod
    def decode(cls, fields: Mapping[bytes, bytes]) -> "Changes":
        """From the Redis hash that they are kept in."""
        values, levels = (fields.get(name, b"{}") for name in (b"values", b"levels"))
        return cls(
            int(fields.get(b"version", 0)),
            msgspec.json.decode(values),
            msgspec.json.decode(levels, type=dict[str, SetLevel]),
        )

    def levels_now(self, now_us: int) -> dict[str, SetLevel]:
        """Those whose time is not over."""
        return {logger: level for logger, level in self.levels.items() if level.holds(now_us)}


class LiveSettings:
    """The settings of this process: those it started with, and over them what operators have changed since."""

    def __init__(self, started_with: Settings) -> None:
        self.started_with = started_with
        self.current = started_with
        self.changes = Changes()
        self.levels = LogLevels(started_with.log.level)
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
            if wanted != self.current:
                log.info("settings_changed", extra={"version": changes.version, "keys": sorted(changes.values)})
        self.changes = changes
        if wanted == self.current:
            return
        self.current = wanted
        self.levels.change_default(wanted.log.level)
        for take_over in self._watchers:
            take_over(wanted)

    def hold_levels(self, now_us: int) -> None:
        """Set the loggers' levels, and set back those whose time is over. To be called once a second."""
        levels = self.changes.levels_now(now_us)
        self.levels.apply({logger: level.level for logger, level in levels.items()})


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
