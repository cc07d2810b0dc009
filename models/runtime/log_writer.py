"""Takes log lines off the hands of whoever logs and writes them by a thread of its own.

Nobody waits for a slow disk, a full one or a pipe that nobody reads: what the queue has no room for is dropped and
counted, and while stdout takes nothing a rotating file takes over. What it has taken is not sent to stdout again.
"""

import errno
import logging
import os
import queue
import select
import stat
import threading
import time
from pathlib import Path

_COLLECT_S = 0.05  # a line is written at most so much later; one system call then takes all that have come
_LINES_AT_ONCE = 200
_PATIENCE_S = 1.0  # so long may stdout take nothing before a file takes over
_LAST_PATIENCE_S = 0.2  # the same while the process ends
_TRY_AGAIN_S = 1.0


class Stuck(Exception):
    """Stdout took only the first ``written`` bytes."""

    def __init__(self, reason: str, written: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.written = written


class Stdout:
    """File descriptor 1, written to without ever waiting for long.

    Not ``sys.stdout``: Dramatiq puts a pipe to its master in that place.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd, self._most_bytes = fd, select.PIPE_BUF
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            self._most_bytes = 1 << 16
        elif stat.S_ISFIFO(kind):
            try:
                # A description of our own: what else writes to this pipe must not be made non-blocking with it.
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._most_bytes = 1 << 16
            except OSError:
                pass  # somebody else's pipe: with PIPE_BUF bytes for which poll has seen room, a write doesn't wait
        self._ready = select.poll()
        self._ready.register(self._fd, select.POLLOUT)

    def write(self, data: bytes, patience_s: float) -> None:
        """:raises Stuck: an error, or not everything was taken within ``patience_s`` seconds"""
        written, until = 0, time.monotonic() + patience_s
        while written < len(data):
            if not self._ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise Stuck("blocked", written)
            try:
                written += os.write(self._fd, data[written : written + self._most_bytes])
            except BlockingIOError:
                continue
            except OSError as error:
                raise Stuck(errno.errorcode.get(error.errno or 0, "error"), written) from error


class Fallback:
    """A file of about ``max_bytes`` and the one before it.

    Not the standard library's rotating handler: at exit ``logging`` waits for every handler, also for one that hangs.
    """

    def __init__(self, file: Path, max_bytes: int) -> None:
        self.file = file
        self._max_bytes = max_bytes

    def put(self, lines: list[bytes]) -> int:
        """How many of the lines it took."""
        try:
            _make_private(self.file.parent)
            if self.file.exists() and self.file.stat().st_size > self._max_bytes:
                self.file.replace(self.file.with_name(self.file.name + ".1"))
            fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                return _whole(lines, os.write(fd, b"".join(lines)))[0]
            finally:
                os.close(fd)
        except OSError:
            return 0


def _whole(lines: list[bytes], written: int) -> tuple[int, int]:
    """How many lines lie within the first ``written`` bytes, and where the last of them ends."""
    whole, end = 0, 0
    while whole < len(lines) and end + len(lines[whole]) <= written:
        end += len(lines[whole])
        whole += 1
    return whole, end


def _make_private(folder: Path) -> None:
    """:raises OSError: it can't be made, or is another user's, who could lead us to a file of theirs"""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} is another user's")


class LogWriter(logging.Handler):
    """The root logger's handler. ``capacity``: lines that may wait."""

    def __init__(self, formatter: logging.Formatter, stdout: Stdout, fallback: Fallback, capacity: int) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.made_by = os.getpid()  # a fork has no thread
        self._stdout = stdout
        self._fallback = fallback
        self._capacity = capacity
        self._waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._dropped = self._diverted = 0
        self._stuck: str | None = None
        self._torn = False  # stdout has the beginning of a line that it didn't take whole
        self._try_again_at = 0.0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def createLock(self) -> None:
        self.lock = None  # the queue needs none

    def handle(self, record: logging.LogRecord) -> bool:
        if kept := self.filter(record):
            self.emit(record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() >= self._capacity:
            self._count(dropped=1)
        else:
            self._waiting.put(record)

    def counts(self) -> tuple[int, int]:
        """Lines dropped and lines diverted to the file, since the start."""
        with self._counting:
            return self._dropped, self._diverted

    def finish(self, deadline_s: float) -> bool:
        """Write what waits and stop; False when ``deadline_s`` seconds were not enough."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _count(self, *, dropped: int = 0, diverted: int = 0) -> None:
        with self._counting:
            self._dropped += dropped
            self._diverted += diverted

    def _run(self) -> None:
        while True:
            first = self._waiting.get()
            if first is not None:
                self._closing.wait(_COLLECT_S)
            lines = [self._line(record) for record in self._take(first)]
            if lines:
                self._write(lines)
            if self._closing.is_set() and self._waiting.empty():
                return

    def _take(self, first: logging.LogRecord | None) -> list[logging.LogRecord]:
        taken = [first]
        while len(taken) < _LINES_AT_ONCE and not self._waiting.empty():
            taken.append(self._waiting.get())
        return [record for record in taken if record is not None]

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except Exception as error:
            # Whatever somebody has logged must not end the thread that writes everybody's lines.
            fields = {"name": record.name, "levelname": "ERROR", "created": record.created}
            fields |= {"msg": "line_not_formatted", "error": type(error).__name__}
            line = self.format(logging.makeLogRecord(fields))
        return f"{line}\n".encode(errors="backslashreplace")

    def _write(self, lines: list[bytes]) -> None:
        if self._stuck is not None and time.monotonic() < self._try_again_at:
            self._divert(lines)
            return
        head = b"\n" if self._torn else b""
        try:
            self._stdout.write(head + b"".join(lines), self._patience_s())
        except Stuck as stuck:
            written = stuck.written - len(head)
            whole, end = _whole(lines, written)
            self._torn = written > end or (self._torn and written < 0)
            self._got_stuck(stuck.reason)
            self._divert(lines[whole:])
        else:
            self._torn = False
            self._came_back()

    def _patience_s(self) -> float:
        if self._stuck is not None:
            return 0.0
        return _LAST_PATIENCE_S if self._closing.is_set() else _PATIENCE_S

    def _got_stuck(self, reason: str) -> None:
        # A blocked pipe can be asked at any time; a full disk is written to only now and then.
        self._try_again_at = time.monotonic() + (0.0 if reason == "blocked" else _TRY_AGAIN_S)
        if self._stuck is None:
            self._stuck = reason
            self._divert([self._own_line("stdout_stuck", {"reason": reason})])

    def _came_back(self) -> None:
        if self._stuck is not None:
            dropped, diverted = self.counts()
            back = {"reason": self._stuck, "dropped": dropped, "diverted": diverted}
            self._stuck = None
            self._write([self._own_line("stdout_back", back | {"file": str(self._fallback.file)})])

    def _own_line(self, event: str, fields: dict[str, object]) -> bytes:
        record = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": event, **fields}
        return self._line(logging.makeLogRecord(record))

    def _divert(self, lines: list[bytes]) -> None:
        written = self._fallback.put(lines)
        self._count(dropped=len(lines) - written, diverted=written)
