"""Becomes the process that a description names: ``python -m scripts.stack.launch NAME.json``, run by supervisord.

It ends what a killed predecessor has left running, notes its own pid, gives up root where the description names a user,
and executes the program in its place, so that the noted pid is the server's own, after every restart too.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import sys
from pathlib import Path

from scripts.stack import processes


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text())
    noted_file = Path(wanted["noted_file"])
    processes.end(processes.orphans_of(noted_file, wanted["env"][processes.MARK]), signal.SIGKILL, patience_s=0)
    processes.note(Path(wanted["pid_file"]), noted_file)
    _allow_many_files()
    if wanted["user"]:
        _become(wanted["user"])
    os.chdir(wanted["cwd"])
    os.execvpe(wanted["argv"][0], wanted["argv"], wanted["env"])


def _allow_many_files() -> None:
    """Every connection is a file: take as many as the machine's hard limit gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _become(user: str) -> None:
    account = pwd.getpwnam(user)
    os.initgroups(user, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


if __name__ == "__main__":
    main()
