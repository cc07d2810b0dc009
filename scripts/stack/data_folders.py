"""Gives each private server a data folder that its own account can reach, and nobody else."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from scripts.stack.run_folder import RunFolder, write_private

ELSEWHERE = Path("/var/lib/votemill")


def make_data_folder(folder: RunFolder, server: str, user: str | None) -> Path:
    """The server's folder under data/, owned by its account, mode 0700; made when missing.

    When a parent of the run folder is closed to other accounts (a checkout below /root), the folder lies under
    /var/lib/votemill and data/NAME is a link to it. Returns the path that the server can use.
    """
    path = folder.data / server
    if not path.exists():
        if user and not _passable(folder.data):
            target = ELSEWHERE / folder.identity / server
            target.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        else:
            path.mkdir()
    real = path.resolve()
    if user:
        _give(real, user)
    real.chmod(0o700)
    return real


def write_for_server(file: Path, text: str) -> None:
    """Write a file into a server's data folder that nobody but its account can read."""
    write_private(file, text)
    owner = file.parent.stat()
    os.chown(file, owner.st_uid, owner.st_gid)


def remove_data(folder: RunFolder) -> None:
    """Delete everything that the private servers stored, also where it lies outside the run folder."""
    shutil.rmtree(ELSEWHERE / folder.identity, ignore_errors=True)
    shutil.rmtree(folder.data, ignore_errors=True)


def _passable(path: Path) -> bool:
    """Whether every account may walk down to the path."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def _give(path: Path, user: str) -> None:
    account = pwd.getpwnam(user)
    if path.stat().st_uid == account.pw_uid:
        return
    os.chown(path, account.pw_uid, account.pw_gid)
    for parent, folders, files in os.walk(path):
        for name in folders + files:
            os.chown(Path(parent, name), account.pw_uid, account.pw_gid, follow_symlinks=False)
