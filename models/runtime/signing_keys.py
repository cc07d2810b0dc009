"""The keys that sign tokens: which of them signs, which still verify, and the file that they are rotated in.

Nodes read ``security.signing_keys_file`` again whenever it changes. A new key verifies from the moment it is read and
signs only from ``signs_from`` on: by then every node knows it, so no node meets a token that it can't verify.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from models.runtime.clock import now_us

_ALWAYS = datetime.fromtimestamp(0, UTC)
_DAY_S = 86_400

Moment = Annotated[datetime, Meta(tz=True)]


class KeysUnusable(Exception):
    """There is no such file, or it holds no keys."""


class SigningKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key. It is forgotten at ``expires_at``, when the last token that it signed has expired."""

    key: Annotated[str, Meta(min_length=32)]
    created_at: Moment = _ALWAYS
    signs_from: Moment = _ALWAYS
    expires_at: Moment | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``security.signing_keys_file`` holds, as JSON: the newest key first."""

    keys: Annotated[tuple[SigningKey, ...], Meta(min_length=1)]


def fingerprint(key: str) -> str:
    """Tells keys apart without telling them."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def usable(keys: Sequence[SigningKey], now: datetime) -> list[str]:
    """The keys that verify now, the one that signs first.

    The newest that is due signs. With none due, since this clock is wrong, the oldest does: whoever waits for its turn
    is not known everywhere. A file whose keys have all expired keeps its newest.
    """
    alive = [key for key in keys if not key.expired(now)] or list(keys[:1])
    signing = next((key for key in alive if key.signs_from <= now), alive[-1])
    return [signing.key, *(key.key for key in alive if key is not signing)]


def rotated(keys: Sequence[SigningKey], now: datetime, signs_in: timedelta, token_max_age: timedelta) -> KeyFile:
    """The same keys behind a new one, without those that have expired.

    The others verify for as long as a token lives that they sign until the new one takes over; ``signs_in`` longer, for
    clocks that differ.
    """
    signs_from = now + signs_in
    until = signs_from + token_max_age + signs_in
    older = [
        msgspec.structs.replace(key, expires_at=min(key.expires_at or until, until))
        for key in keys
        if not key.expired(now)
    ]
    return KeyFile((SigningKey(secrets.token_urlsafe(32), now, signs_from), *older))


def read(path: Path) -> tuple[SigningKey, ...]:
    """:raises KeysUnusable: with a reason that names no key"""
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeyFile).keys
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeysUnusable(f"{path}: {reason}") from error


class KeyRing:
    """The keys in use by one process: those of a list, or those of a file as it is now."""

    def __init__(self, listed: Sequence[SigningKey], file: Path | None) -> None:
        """:raises KeysUnusable:"""
        self._file = file
        self._seen = _stamp(file)
        self._keys = read(file) if file is not None else tuple(listed)

    def usable(self) -> list[str]:
        """As ``usable``, now."""
        return usable(self._keys, datetime.fromtimestamp(now_us() / 1e6, UTC))

    def signing_age_days(self) -> float | None:
        """Of the key that signs now; None when it doesn't say when it was made."""
        signing = self.usable()[0]
        made_at = next(key.created_at for key in self._keys if key.key == signing)
        return (now_us() / 1e6 - made_at.timestamp()) / _DAY_S if made_at > _ALWAYS else None

    def use(self, listed: Sequence[SigningKey]) -> None:
        """Take another list, unless there is a file."""
        if self._file is None:
            self._keys = tuple(listed)

    def refresh(self) -> None:
        """Read the file again if it has changed. One that can't be used leaves the keys as they are.

        :raises KeysUnusable: once for each change
        """
        stamp = _stamp(self._file)
        if self._file is not None and stamp != self._seen:
            self._seen = stamp
            self._keys = read(self._file)


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    """Differs when the file is another one or has been written to; None without a file."""
    try:
        status = file.stat() if file is not None else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status else None
