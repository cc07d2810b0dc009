"""Shows and rotates the keys that sign tokens, in the file that the setting security.signing_keys_file names.

Without a command it shows each key's fingerprint, what it does, and its age. ``rotate`` puts a new key in front:
running nodes read it within a second or so, verify with it at once, and sign with it after --signs-in, when all of them
know it. The others verify until the last token that they signed has expired. ``drop`` forgets a key at once, with every
token that it has signed: for a key that has leaked.

Exit status: 0 done, 2 wrong usage, 78 the settings or the file can't be used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from models.runtime.settings import EX_CONFIG, load_or_exit
from models.runtime.signing_keys import KeyFile, KeysUnusable, SigningKey, read, rotated, usable

_SIGNS_IN_S = 60


def main(words: Sequence[str]) -> int:
    options = parse(words)
    security = load_or_exit().security
    if not security.signing_keys_file:
        print("keys: the setting security.signing_keys_file names no file", file=sys.stderr)
        return EX_CONFIG
    path, now = Path(security.signing_keys_file).resolve(), datetime.now(UTC)
    try:
        keys = read(path)
    except KeysUnusable as error:
        print(f"keys: {error}", file=sys.stderr)
        return EX_CONFIG
    match options.command:
        case "rotate":
            changed = rotated(
                keys, now, timedelta(seconds=options.signs_in), timedelta(seconds=security.token_max_age_s)
            )
        case "drop":
            kept = tuple(key for key in keys if key.fingerprint != options.fingerprint)
            if len(kept) == len(keys) or not any(key.signs_from <= now and not key.expired(now) for key in kept):
                print(f"keys: {options.fingerprint} is not there, or no other key signs yet", file=sys.stderr)
                return 2
            changed = KeyFile(kept)
        case _:
            changed = KeyFile(keys)
    if changed.keys != keys:
        replace(path, changed)
    for line in table(changed.keys, now):
        print(line)
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/keys", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("show", help="what there is (the default)")
    rotate = commands.add_parser("rotate", help="put a new key in front")
    rotate.add_argument(
        "--signs-in",
        type=_seconds,
        default=_SIGNS_IN_S,
        help="seconds until it signs, enough for every node to have the file (default %(default)s)",
    )
    commands.add_parser("drop", help="forget a key that has leaked").add_argument("fingerprint")
    return parser.parse_args(words)


def replace(path: Path, keys: KeyFile) -> None:
    """Write the file anew in one step, for the same owner and group."""
    before, temporary = path.stat(), path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, before.st_mode & 0o660)
        out.write(msgspec.json.format(msgspec.json.encode(keys), indent=1))
        out.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def table(keys: Sequence[SigningKey], now: datetime) -> list[str]:
    """One line for each key, the newest first."""
    signing = usable(keys, now)[0]
    lines = [f"{'key':<10}{'does':<10}{'age':<8}until"]
    for key in keys:
        does = "expired" if key.expired(now) else "signs" if key.key == signing else "verifies"
        waits = f"signs from {_shown(key.signs_from)}" if key.signs_from > now else ""
        until = _shown(key.expires_at) if key.expires_at else waits
        lines.append(f"{key.fingerprint:<10}{does:<10}{_age(now - key.created_at):<8}{until}".rstrip())
    return lines


def _age(age: timedelta) -> str:
    """A key whose making nobody has noted is as old as time."""
    seconds = int(age.total_seconds())
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= unit_s:
            return f"{seconds // unit_s}{unit}" if seconds < 20 * 365 * 86_400 else "?"
    return f"{seconds}s"


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("expected 0 to 86400 seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
