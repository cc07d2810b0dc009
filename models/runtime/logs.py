"""Logs: one JSON object a line (text for people in development), a static event name, the rest in fields."""

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from models.runtime.settings import LogSettings

# Travels from the browser's event through the message to the worker and back.
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


class _Context(logging.Filter):
    def __init__(self, service: str, instance: str, environment: str) -> None:
        super().__init__()
        self._fields = {"service.name": service, "service.instance": instance, "env": environment}

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(self._fields)
        if "correlation_id" not in record.__dict__:
            record.correlation_id = correlation_id.get()
        return True


def _on_one_line(value: object) -> str:
    """Escaped where it would break the line, or could make a terminal show another one."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class _TextFormatter(logging.Formatter):
    """``time LEVEL instance event key=value ...`` for a person at a terminal."""

    _standard = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = (
            f"{key}={_on_one_line(value)}"
            for key, value in record.__dict__.items()
            if key not in self._standard and value != "" and not key.startswith(("service.", "env"))
        )
        first, *trace = line.split("\n", 1)
        return "\n".join([" ".join([first, *fields]), *trace])


def configure(settings: LogSettings, *, service: str, instance: str, environment: str) -> None:
    """Send all logs to stdout. Called once, by the process's entry point."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_Context(service, instance, environment))
    if settings.json:
        handler.setFormatter(
            JsonFormatter(
                "%(levelname)s %(name)s %(message)s",
                timestamp=True,
                rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            )
        )
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for chatty in ("pika", "socketio", "engineio", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ROOT = "root"


class LogLevels:
    """The levels of this process's loggers: the setting's, except where an operator has set another at runtime."""

    def __init__(self, default: str) -> None:
        self._default = default
        self._set: dict[str, str] = {}

    def current(self) -> dict[str, str]:
        """Logger name -> level; ``root`` is everything that has no level of its own."""
        return {ROOT: self._default, **self._set}

    def change_default(self, level: str) -> None:
        """Another level for everything that has none of its own."""
        self._default = level
        if ROOT not in self._set:
            logging.getLogger().setLevel(level)

    def apply(self, levels: Mapping[str, str]) -> None:
        """Make exactly these hold beside the default; a logger that is named no longer follows the root again."""
        wanted = {name: level for name, level in levels.items() if level in LEVELS}
        if wanted == self._set:
            return
        for name in self._set.keys() - wanted.keys():
            logging.getLogger(name).setLevel(self._default if name == ROOT else logging.NOTSET)
        for name, level in wanted.items():
            logging.getLogger(name).setLevel(level)
        self._set = wanted
