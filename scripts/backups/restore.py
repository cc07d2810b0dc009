"""scripts/restore: the database as it was at a moment, in the place of the present one or beside it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from scripts.backups.backup import newest
from scripts.faults.stack import read_env
from scripts.stack import ports
from scripts.stack.plan import account, server_env
from scripts.stack.progress import StepFailed, say, step
from scripts.stack.run_folder import ROOT, RunFolder
from scripts.stack.services import pgbackrest, postgres
from scripts.stack.supervision import Supervisor, wait_until

RECOVERS_WITHIN_S = 4 * 3600
_REACHED = re.compile(r"last completed transaction was at log time (.+)")
_FATAL = re.compile(r"FATAL: +(.+)")
_HOPELESS = re.compile(r"startup process .* exited with exit code")
_BEFORE = "cluster.before-restore"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/restore", description="Restore the database from its backups.")
    parser.add_argument(
        "--to", type=moment, help="a moment with its time zone, 2026-11-25T08:05:00Z (default: the end)"
    )
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="restore there, count again, change nothing else")
    parser.add_argument("--run-dir", default=".run", help="the stack's run folder (default %(default)s)")
    options = parser.parse_args()
    folder = RunFolder(options.run_dir)
    try:
        newest(pgbackrest.of_stack(folder))
        if options.beside:
            return restore_beside(folder, options.to, options.beside)
        with folder.locked():
            restore_in_place(folder, options.to)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    return 0


def moment(text: str) -> datetime:
    """:raises argparse.ArgumentTypeError: no time, one without a zone (it could be any of 24 hours), or one to come"""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no time zone: add Z for UTC")
    if at > datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text} is still to come")
    return at.astimezone(UTC)


def restore_in_place(folder: RunFolder, to: datetime | None) -> None:
    """Replace the database's files while nodes go on and votes wait in their queue; the present ones stay beside.

    :raises StepFailed: the database is as it was before
    """
    supervisor = Supervisor(folder)
    if not supervisor.is_running():
        raise StepFailed(f"nothing runs in {folder.path}; scripts/up starts it")
    supervisor.stop_programs(["postgres"])
    cluster = (folder.data / "postgres").resolve() / "cluster"
    before = cluster.with_name(_BEFORE)
    kept = _set_aside(cluster, before)
    log = folder.log("postgres")
    written = log.stat().st_size
    try:
        with step("files from the backup", announce=True):
            _copy(folder, to, cluster)
        with step("log from the archive", announce=True):
            supervisor.start_program("postgres")
            _wait_recovered(read_env(folder.env_file)["DATABASE_URL"], log, written)
    except BaseException:
        supervisor.stop_programs(["postgres"])
        shutil.rmtree(cluster, ignore_errors=True)
        if kept:
            before.rename(cluster)
            supervisor.start_program("postgres")
        raise
    say(f"restored to {reached(log, written)}" + (f"; what was there before is in {before}" if kept else ""))
    if "standby" in supervisor.states():
        supervisor.stop_programs(["standby"])
        supervisor.start_program("standby")  # it finds that its slot is gone, and copies the primary anew
    with step("nodes and browsers take what the database says"):
        _after_restore(folder)


def restore_beside(folder: RunFolder, to: datetime | None, beside: Path) -> int:
    """Restore into a folder of its own, start it there, count again, stop it; the exit code of the count."""
    cluster = beside.resolve()
    if cluster.exists() and any(cluster.iterdir()):
        raise StepFailed(f"{cluster} is not empty")
    with step("files from the backup", announce=True):
        _copy(folder, to, cluster)
    port, log = ports.any_free(), cluster.with_name(f"{cluster.name}.log")
    # It must not write into the archive, which belongs to the present database.
    whole_url = read_env(folder.env_file)["DATABASE_URL"]
    encryption = postgres.encryption((folder.data / "postgres").resolve()) if "sslmode=" in whole_url else {}
    options = postgres.options(port, archive_mode="off", **encryption)
    argv = [str(postgres.binary("postgres")), "-D", str(cluster), *options]
    user = account("postgres")
    with log.open("w") as out:
        server = subprocess.Popen(
            argv, env=server_env(cluster), cwd=cluster, user=user, group=user, stdout=out, stderr=subprocess.STDOUT
        )
    url = re.sub(r":\d+/", f":{port}/", whole_url)
    try:
        with step("log from the archive", announce=True):
            _wait_recovered(url, log, 0)
        say(f"restored to {reached(log, 0)}")
        return recount(folder, url)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        say(f"it lies in {cluster}; postgres -D {cluster} -c archive_mode=off starts it")


def reached(log: Path, since: int) -> str:
    """The time of the last transaction that the recovery found, as PostgreSQL's log says behind ``since`` bytes."""
    found = _REACHED.findall(_tail(log, since))
    return found[-1] if found else "the end of the backup"


def recount(folder: RunFolder, url: str) -> int:
    """Count the votes in a database again; 0 when all tallies are right, as ``scripts/recount`` exits."""
    done = _python(folder, {"VOTEMILL_DATABASE__URL": url}, "models.recount")
    say((done.stdout + done.stderr).strip())
    return done.returncode


def _set_aside(cluster: Path, before: Path) -> bool:
    """Keep the present files, if there are any: perhaps they are all that is left of what came after the moment."""
    if not cluster.exists():
        return False
    shutil.rmtree(before, ignore_errors=True)
    cluster.rename(before)
    return True


def _copy(folder: RunFolder, to: datetime | None, cluster: Path) -> None:
    cluster.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = account("postgres")
    if user:
        shutil.chown(cluster, user, user)
    target = ["--type=time", f"--target={to:%Y-%m-%d %H:%M:%S.%f}+00", "--target-action=promote"] if to else []
    pgbackrest.of_stack(folder).run(f"--pg1-path={cluster}", *target, "restore", timeout_s=RECOVERS_WITHIN_S)


def _wait_recovered(url: str, log: Path, since: int) -> None:
    def failed() -> bool:
        return _HOPELESS.search(_tail(log, since)) is not None

    try:
        wait_until(lambda: _is_recovered(url), RECOVERS_WITHIN_S, "the recovery did not end", log, give_up=failed)
    except StepFailed:
        # Whoever asks a server that is starting gets a FATAL of his own.
        whys = [why for why in _FATAL.findall(_tail(log, since)) if not why.startswith("the database system is")]
        raise StepFailed(f"the recovery failed: {whys[0] if whys else 'it did not end'}", log) from None


def _is_recovered(url: str) -> bool:
    try:
        connection = psycopg2.connect(url, connect_timeout=2)
    except psycopg2.OperationalError:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT NOT pg_is_in_recovery()")
            return bool(cursor.fetchone()[0])  # type: ignore[index]
    except psycopg2.OperationalError:
        return False
    finally:
        connection.close()


def _after_restore(folder: RunFolder) -> None:
    """Versions above all that was shown: otherwise screens would keep what the database has no more."""
    done = _python(folder, {}, "workers.after_restore")
    if done.returncode != 0:
        raise StepFailed(f"{done.stderr.strip()}: scripts/after-restore, when all servers are up")
    say(done.stdout.strip())


def _python(folder: RunFolder, more: dict[str, str], module: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) | read_env(folder.process_env_file) | more
    command = [sys.executable, "-m", module]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600, check=False)


def _tail(log: Path, since: int) -> str:
    with log.open("rb") as file:
        file.seek(since if since <= log.stat().st_size else 0)  # it may have been rotated
        return file.read().decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
