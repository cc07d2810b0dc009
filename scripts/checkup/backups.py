"""How old the newest backup is, where pgBackRest is on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.checkup.findings import Finding, Here, at_most

_CONFIGURATION = Path("/etc/pgbackrest.conf")
_DAY_S = 86_400
_STANZA = "votemill"


def check(here: Here) -> Iterator[Finding]:
    told = _asked(here)
    if told is None:
        return  # the database's machine knows; the archive is asked for by PostgreSQL
    yield _judged(told, here)


def _judged(told: str, here: Here) -> Finding:
    stops = [backup["timestamp"]["stop"] for stanza in json.loads(told) for backup in stanza.get("backup", [])]
    advice = "scripts/backup --type diff every day, --type full every week (nomad/README.md, Backups)"
    if not stops:
        return Finding("backup", here.at_fault, "there is none", advice)
    age_d = (time.time() - max(stops)) / _DAY_S
    return at_most("backup", age_d, 1.5, 8, f"the newest of {len(stops)} is {age_d:.1f} days old", advice)


def _asked(here: Here) -> str | None:
    if here.run_dir is not None:
        from scripts.stack.run_folder import RunFolder  # neither is in the image
        from scripts.stack.services import pgbackrest

        folder = RunFolder(here.run_dir)
        if not pgbackrest.configuration(folder).exists():
            return None
        return pgbackrest.of_stack(folder).run("--output=json", "info", timeout_s=20)
    if shutil.which("pgbackrest") is None or not _CONFIGURATION.exists():
        return None
    command = ["pgbackrest", f"--stanza={_STANZA}", "--output=json", "info"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
