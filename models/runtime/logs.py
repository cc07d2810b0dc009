"""Logs: one JSON object a line (text for people in development), a static event name, the rest in fields."""

import atexit
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import msgspec
from pythonjsonlogger.json import JsonFormatter

from models.runtime.correlation import correlation_id, span_id
from models.runtime.log_writer import Fallback, LogWriter, Stdout
from models.runtime.settings import LogSettings
from models.runtime.version import VERSION

_FINISH_S = 2.0
_CHATTY = ("pika", "socketio", "engineio", "aiohttp.access")

# PostgreSQL tells in these lines of an error what was to be stored, names and choices among it.
_VALUES = re.compile(r"(DETAIL|CONTEXT|LINE \d+):.*?(?=\\n|\n|$)")

_encode = msgspec.json.Encoder().encode
_writer: LogWriter | None = None


class _Trace(logging.Filter):
    """Adds what the line is part of; here and not by the formatter, which runs on another thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        here = correlation_id.get()
        if named := record.__dict__.get("correlation_id", here):
            record.correlation_id = record.trace_id = named
        if named and named == here:
            record.span_id = span_id.get()
        return True


class _Json(JsonFormatter):
    def __init__(self, static_fields: dict[str, str]) -> None:
        names = {"levelname": "level", "name": "logger"}
        super().__init__(["levelname", "name", "message"], rename_fields=names, static_fields=static_fields)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["timestamp"] = datetime.fromtimestamp(record.created, tz=UTC)
        log_data["event"] = str(record.msg)
        super().add_fields(log_data, record, message_dict)
        for name in ("error", "exc_info"):
            if name in log_data:
                log_data[name] = _VALUES.sub(r"\1: (left out)", str(log_data[name]))

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """By msgspec, at a third of the cost, unless something must be escaped that a terminal could be fooled by."""
        try:
            encoded = _encode(log_data)
        except (TypeError, ValueError):
            return super().jsonify_log_record(log_data)
        return encoded.decode() if encoded.isascii() else super().jsonify_log_record(log_data)


_PLAIN = re.compile(r"[\w.:/+@-]+", re.ASCII)


def _shown(value: object) -> str:
    """In quotes where it would not be one word, escaped where it could make a terminal show another line."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(_VALUES.sub(r"\1: (left out)", text), ensure_ascii=not text.isprintable())


class _Text(logging.Formatter):
    """``time LEVEL logger event key=value ...`` for a person at a terminal."""

    _left_out = frozenset(logging.makeLogRecord({}).__dict__) | {
        "message",
        "asctime",
        "taskName",
        "trace_id",
        "span_id",
    }

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        first, *trace = super().format(record).split("\n", 1)
        fields = (f"{key}={_shown(value)}" for key, value in record.__dict__.items() if key not in self._left_out)
        return "\n".join([" ".join([first, *fields]), *trace])

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).isoformat(" ", "microseconds")

    def formatException(self, ei: Any) -> str:
        return _VALUES.sub(r"\1: (left out)", super().formatException(ei))


def configure(settings: LogSettings, *, service: str, instance: str, environment: str) -> None:
    """Send all logs to stdout, by a thread. Called by the process's entry point, and again in a fork."""
    global _writer
    close()
    # As Python's logging HOWTO has it under "Optimization": what no line shows is not looked up for each.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    static = {
        "service.name": service, "service.version": VERSION, "service.instance": instance, "env": environment
    }  # fmt: skip
    folder = Path(settings.fallback_folder or Path(tempfile.gettempdir(), f"votemill-logs-{os.geteuid()}"))
    fallback = Fallback(folder / f"{instance.replace('/', '-')}.log", settings.fallback_bytes)
    _writer = LogWriter(_Json(static) if settings.json else _Text(), Stdout(), fallback, settings.queue_lines)
    _writer.addFilter(_Trace())
    root = logging.getLogger()
    root.handlers[:] = [_writer]
    root.setLevel(settings.level)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The one runs when a main process ends, the other when a child of multiprocessing does.
    atexit.register(close)
    Finalize(None, close, exitpriority=0)


def close(deadline_s: float = _FINISH_S) -> bool:
    """Write what waits, for at most ``deadline_s`` seconds, and log nothing from then on; False when it took longer."""
    global _writer
    writer, _writer = _writer, None
    if writer is None or writer.made_by != os.getpid():
        return True
    logging.getLogger().removeHandler(writer)
    return writer.finish(deadline_s)


def lost_lines() -> tuple[int, int]:
    """Lines that this process has dropped, and that went to the file instead of stdout, since its start."""
    return _writer.counts() if _writer is not None else (0, 0)


class Singles:
    """How many lines about single votes, events and calls a process writes a second: whoever sends many fills no disk.

    ``most_per_s``; what is beyond is counted, and told once it is over.
    """

    def __init__(self, most_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_per_s = most_per_s
        self._clock = clock
        self._second = 0
        self._written = self._left_out = 0

    def allows(self) -> bool:
        """Whether one more may be written; it is counted as written."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                logging.getLogger(__name__).warning("lines_left_out", extra={"lines": left_out})
        if self._written >= self.most_per_s:
            self._left_out += 1
            return False
        self._written += 1
        return True


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ROOT = "root"


class LogLevels:
    """The levels of this process's loggers: the setting's, except where an operator has set another at runtime."""

    def __init__(self, default: str) -> None:
        self._default = default
        self._set: dict[str, str] = {}
        self._before: dict[str, int] = {}

    def current(self) -> dict[str, str]:
        """Logger name -> level; ``root`` is everything that has no level of its own."""
        return {ROOT: self._default, **self._set}

    def change_default(self, level: str) -> None:
        """Another level for everything that has none of its own."""
        self._default = level
        if ROOT not in self._set:
            logging.getLogger().setLevel(level)

    def apply(self, levels: Mapping[str, str]) -> None:
        """Make exactly these hold beside the default; a logger that is named no longer is as it was before."""
        wanted = {name: level for name, level in levels.items() if level in LEVELS}
        if wanted == self._set:
            return
        for name in self._set.keys() - wanted.keys():
            logging.getLogger(name).setLevel(self._default if name == ROOT else self._before.pop(name))
        for name, level in wanted.items():
            logger = logging.getLogger(name)
            if name != ROOT:
                self._before.setdefault(name, logger.level)
            logger.setLevel(level)
        self._set = wanted
        logging.getLogger(__name__).warning("log_levels_changed", extra={"levels": self.current()})
