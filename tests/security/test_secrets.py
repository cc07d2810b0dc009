"""No secret of the running stack stands where others can read it: process list, logs, errors."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from scripts.stack.run_folder import ROOT

SECRETS_BY_NAME = ("SIGNING_KEYS", "ADMIN_TOKEN", "ADDRESS_KEY")


@pytest.fixture
def stack_secrets(run_dir: Path) -> set[str]:
    """Every secret of the stack: those in its folder, and those that its processes are given."""
    found = {file.read_text().strip() for file in (run_dir / "secrets").iterdir() if file.is_file()}
    for name, value in os.environ.items():
        if name.startswith("VOTEMILL_") and name.endswith("__URL"):
            found.add(unquote(urlsplit(value).password or ""))
        elif name.endswith(SECRETS_BY_NAME):
            keys = json.loads(value.removeprefix("@json ")) if value.startswith("@json ") else [value]
            found |= {*keys}
    found = {secret for secret in found if len(secret) >= 16}
    assert len(found) >= 4, "where are the secrets?"
    return found


@pytest.mark.proves("FR-024")
def test_the_process_list_holds_no_secret(stack_secrets: set[str], run_dir: Path) -> None:
    commands = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                commands[folder.name] = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # ended meanwhile
    assert any(str(run_dir) in command for command in commands.values())
    told = [command.replace("\0", " ") for command in commands.values() if any(s in command for s in stack_secrets)]
    assert told == []


@pytest.mark.proves("FR-024")
def test_the_logs_hold_no_secret_and_the_files_with_secrets_are_their_owners(
    stack_secrets: set[str], run_dir: Path
) -> None:
    logs = list((run_dir / "log").glob("*"))
    assert any(log.stat().st_size for log in logs)
    told = [log.name for log in logs if any(secret in log.read_text(errors="replace") for secret in stack_secrets)]
    assert told == []
    private = [run_dir / "env", run_dir / "process.env", *(run_dir / "secrets").iterdir()]
    assert [file.name for file in private if stat.S_IMODE(file.stat().st_mode) & 0o077] == []


@pytest.mark.proves("FR-024", "FR-039", "E5")
def test_a_start_that_fails_over_a_secret_says_no_word_of_it() -> None:
    secret = "Zx81kQpWm4"  # pragma: allowlist secret
    env = os.environ | {"VOTEMILL_SECURITY__SIGNING_KEYS": f'@json ["{secret}', "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "socket_tier"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 78
    assert ran.stderr.startswith("settings: VOTEMILL_SECURITY__SIGNING_KEYS: ")
    assert secret not in ran.stdout + ran.stderr
