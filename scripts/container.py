"""``python -m scripts.container CONFIG ROOT [ARGUMENT...]``: runs an unpacked image without a container daemon.

CONFIG is what ``buildah inspect`` says of the image, ROOT its file system. The process has what an orchestrator would
give it: the image's entrypoint, user and variables, a root file system that is read-only but for /tmp, processes of its
own, and no way to gain privileges. Only the network is this machine's. Needs root; SIGTERM and SIGINT are passed on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000  # linux/sched.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text())["Docker"]["config"]
    root, arguments = Path(sys.argv[2]), sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID):
        raise OSError(ctypes.get_errno(), "no namespaces of its own: this needs root")
    child = os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _mount(root)
        _enter(root, config["User"])
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.chdir(config["WorkingDir"])
        argv = [*config["Entrypoint"], *(arguments or config["Cmd"])]
        os.execve(argv[0], argv, _variables(config["Env"]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _frame: os.kill(child, signum))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _mount(root: Path) -> None:
    for arguments in (
        ["--make-rprivate", "/"],
        ["--bind", root, root],
        ["-t", "proc", "proc", root / "proc"],
        ["--rbind", "/dev", root / "dev"],
        ["-t", "tmpfs", "-o", "mode=1777,size=16m", "tmpfs", root / "tmp"],
        ["-o", "remount,bind,ro", root],
    ):
        subprocess.run(["mount", *map(str, arguments)], check=True)


def _enter(root: Path, user: str) -> None:
    uid, gid = (int(number) for number in user.split(":"))
    os.chroot(root)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _variables(image: list[str]) -> dict[str, str]:
    """The image's variables, and the caller's settings over them."""
    caller = {name: value for name, value in os.environ.items() if name.startswith("VOTEMILL_")}
    return dict(each.split("=", 1) for each in image) | caller


if __name__ == "__main__":
    sys.exit(main())
