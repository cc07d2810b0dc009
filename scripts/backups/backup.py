"""scripts/backup: copies the database's files, the broker's definitions and the settings."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from scripts.stack.data_folders import write_for_server
from scripts.stack.progress import StepFailed, say, step
from scripts.stack.run_folder import ROOT, RunFolder
from scripts.stack.services import pgbackrest, rabbitmq
from scripts.stack.services.pgbackrest import PgBackRest


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/backup", description="Copy database, definitions and settings.")
    parser.add_argument("--run-dir", default=".run", help="a stack of scripts/up --backup (default %(default)s)")
    parser.add_argument("--type", choices=("full", "diff", "incr"), default="incr", help="full when there is none yet")
    parser.add_argument("--config", type=Path, help="pgbackrest.conf of a database that scripts/up did not start")
    options = parser.parse_args()
    try:
        if options.config:
            with step("database files", announce=True):
                label = copy_database(PgBackRest(options.config), options.type)
        else:
            label = back_up(RunFolder(options.run_dir), options.type)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    say(f"Backup {label} is complete")
    return 0


def back_up(folder: RunFolder, kind: str) -> str:
    """Everything of a stack; the label of the backup.

    :raises StepFailed: the stack has no archive, or something could not be copied
    """
    if not folder.env_file.exists() or "PGBACKREST_CONFIG=" not in folder.env_file.read_text():
        raise StepFailed(f"no stack with an archive runs in {folder.path}: scripts/up --backup starts one")
    with step("database files", announce=True):
        label = copy_database(pgbackrest.of_stack(folder), kind)
    with step("broker definitions and settings"):
        export(folder, label)
    return label


def copy_database(backrest: PgBackRest, kind: str) -> str:
    """The new backup's label. It is complete only with the log that was written meanwhile, which is waited for."""
    backrest.run(f"--type={kind}", "backup")
    return newest(backrest)["label"]


def newest(backrest: PgBackRest) -> dict[str, str]:
    """What pgBackRest knows of its newest backup.

    :raises StepFailed: there is none
    """
    stanzas = json.loads(backrest.run("--output=json", "info"))
    backups = stanzas[0]["backup"] if stanzas else []
    if not backups:
        raise StepFailed("there is no backup yet: scripts/backup makes one")
    found: dict[str, str] = backups[-1]
    return found


def export(folder: RunFolder, label: str) -> None:
    """The broker's users, policies and queues, and the settings, secrets included: who has a backup has everything."""
    exports = (folder.data / pgbackrest.NAME).resolve() / "exports" / label
    exports.mkdir(parents=True, mode=0o700)
    shutil.chown(exports, exports.parent.parent.stat().st_uid, exports.parent.parent.stat().st_gid)
    write_for_server(exports / "settings.toml", (ROOT / "settings.toml").read_text())
    write_for_server(exports / "process.env", folder.process_env_file.read_text())
    if (folder.data / rabbitmq.NAME).exists():
        write_for_server(exports / "broker-definitions.json", _definitions(folder))


def _definitions(folder: RunFolder) -> str:
    place = (folder.data / rabbitmq.NAME).resolve() / "exported-definitions.json"
    log = folder.log("export-definitions")
    with log.open("w") as out:
        # It answers at its port a moment before it answers this.
        rabbitmq.run_ctl(folder, ["await_startup", "--timeout", "40"], out)
        if rabbitmq.run_ctl(folder, ["export_definitions", str(place)], out) != 0:
            raise StepFailed("the broker's definitions could not be exported", log)
    try:
        return place.read_text()
    finally:
        place.unlink()


if __name__ == "__main__":
    sys.exit(main())
