"""Certificates of the servers, and the keys that sign tokens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.runtime import tls
from models.runtime.certificates import days_left
from models.runtime.signing_keys import KeysUnusable, read, usable
from scripts.checkup.findings import Finding, Here, Status, at_most, judged

_SOON_DAYS, _LAST_DAYS = 14, 3
_OLD = timedelta(days=365)
_FORGOTTEN = timedelta(days=20 * 365)  # of a key whose making nobody has noted


def certificates(here: Here) -> Iterator[Finding]:
    """How long those of the servers are good; nothing where TLS is off."""
    for name in ("database", "broker", "redis"):
        server = getattr(here.settings, name)
        if not server.ca_file:
            continue
        try:
            left = days_left(name, server)
        except OSError as error:
            found = here.hide(tls.explained(name, error))
            yield Finding(f"certificate of {name}", Status.FAILED, found, "nomad/README.md, TLS to the servers")
            continue
        advice = "renew it; processes read it at their next start"
        found = f"good for {left:.0f} more days"
        yield at_most(f"certificate of {name}", -left, -_SOON_DAYS, -_LAST_DAYS, found, advice)


def signing_keys(here: Here) -> Iterator[Finding]:
    security, now = here.settings.security, datetime.now(UTC)
    advice = "scripts/keys rotate, once a year and after a leak (nomad/README.md, Rotate)"
    try:
        keys = read(Path(security.signing_keys_file)) if security.signing_keys_file else security.listed_keys
    except KeysUnusable as error:
        yield Finding("signing keys", Status.FAILED, str(error), "nodes can't start with it; bring the file back")
        return
    signing = next(key for key in keys if key.key == usable(keys, now)[0])
    age = now - signing.created_at
    if age > _FORGOTTEN:
        yield Finding("signing keys", Status.NOTE, f"{signing.fingerprint} signs; nobody has noted its age", advice)
        return
    found = f"{signing.fingerprint} signs, {age.days} days old; {len(keys)} in all"
    yield judged("signing keys", age <= _OLD, found, Status.WARNING, advice)
