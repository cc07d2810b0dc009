"""Backups of the private PostgreSQL by pgBackRest: a continuous archive of its log, and copies of its files."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from models.runtime.settings import BackupSettings, SettingsError, load
from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.progress import StepFailed
from scripts.stack.run_folder import RunFolder

NAME = "backup"
STANZA = "votemill"
ROLE = "votemill_backup"

CONFIGURATION = """\
[global]
repo1-path={home}/repository
repo1-retention-full={full_kept}
repo1-bundle=y
log-path={home}/log
lock-path={home}/lock
log-level-console=warn
log-level-file=detail
compress-type=zst
process-max=2
# A backup begins with a checkpoint at once instead of waiting for the next one.
start-fast=y

[{stanza}]
pg1-path={cluster}
pg1-port={port}
pg1-user={role}
"""

# No superuser: it may begin and end a backup and read the settings, and sees no table.
GRANT = f"""
GRANT pg_read_all_settings TO {ROLE};
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_create_restore_point(text),
  pg_switch_wal() TO {ROLE}
"""


@dataclass(frozen=True)
class PgBackRest:
    """pgBackRest with a configuration, run as the account that owns the database's files (None: the caller)."""

    configuration: Path
    env: dict[str, str] | None = None
    user: str | None = None

    def run(self, *arguments: str, timeout_s: float = 3600) -> str:
        """What it printed.

        :raises StepFailed: with the reason that it gave
        """
        done = subprocess.run(
            ["pgbackrest", f"--config={self.configuration}", f"--stanza={STANZA}", *arguments],
            env=self.env,
            cwd="/",
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
            raise StepFailed(f"pgbackrest {arguments[-1]}: {said[-1]}")
        return done.stdout


def of_stack(folder: RunFolder) -> PgBackRest:
    """For the private PostgreSQL of a run folder."""
    home = (folder.data / NAME).resolve()
    # It speaks to PostgreSQL through a socket in the file system unless libpq's own variable says otherwise.
    env = server_env(home) | {"PGHOST": ports.LOOPBACK, "PGPASSFILE": str(home / "passwords")}
    return PgBackRest(configuration(folder), env, account("postgres"))


def configuration(folder: RunFolder) -> Path:
    return (folder.data / NAME).resolve() / "pgbackrest.conf"


def archiving(folder: RunFolder) -> dict[str, str]:
    """PostgreSQL's settings for a continuous archive. The archive's command is shell text in which % is special."""
    make_data_folder(folder, NAME, account("postgres"))
    place = shlex.quote(str(configuration(folder))).replace("%", "%%")
    return {
        "archive_mode": "on",
        "archive_command": f"pgbackrest --config={place} --stanza={STANZA} archive-push %p",
        "archive_timeout": f"{_settings().archive_timeout_s}s",
    }


def prepare(plan: Plan, cluster: Path) -> None:
    """Write the configuration, before PostgreSQL starts."""
    home = make_data_folder(plan.folder, NAME, account("postgres"))
    text = CONFIGURATION.format(
        home=home,
        full_kept=_settings().full_kept,
        stanza=STANZA,
        cluster=cluster,
        port=plan.ports["postgres"],
        role=ROLE,
    )
    write_for_server(home / "pgbackrest.conf", text)
    password = plan.folder.secret("backup-password")
    write_for_server(home / "passwords", f"*:*:*:{ROLE}:{password}\n")


def _settings() -> BackupSettings:
    try:
        return load().backup
    except SettingsError as error:
        raise StepFailed(f"settings: {error.problems[0]}") from None
