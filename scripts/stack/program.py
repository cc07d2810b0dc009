"""The description of one supervised process, and the two files that supervisord and the launcher read."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.stack import processes
from scripts.stack.run_folder import ROOT, RunFolder, write_private

STOPS_WITHIN_S = 30


@dataclass(frozen=True)
class Program:
    """One process: what is executed, as whom, and how it is asked to stop.

    ``group`` orders the stopping: the balancer first, the servers last. ``user`` None means the caller.
    ``steady_after_s`` is how long it must have lived before supervisord takes its death for an accident and starts it
    again at once; one that dies earlier is started with growing pauses.
    """

    name: str
    group: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path = ROOT
    user: str | None = None
    stop_signal: str = "TERM"
    steady_after_s: int = 1


STOP_ORDER = ("haproxy", "node", "worker", "server")


def launch_file(folder: RunFolder, name: str) -> Path:
    """What the launcher executes under this name."""
    return folder.processes / f"{name}.json"


def noted_file(folder: RunFolder, name: str) -> Path:
    """What proves that the pid in pids/NAME.pid is still that process."""
    return folder.processes / f"{name}.noted"


def pid_file(folder: RunFolder, name: str) -> Path:
    return folder.pids / f"{name}.pid"


def write_launch_file(folder: RunFolder, program: Program) -> None:
    """Write the launcher's description; secrets travel here and not on command lines, which everybody can read."""
    description = {
        "argv": program.argv,
        "env": program.env | {processes.MARK: str(folder.path)},
        "cwd": str(program.cwd),
        "user": program.user,
        "group": program.group,
        "stop_signal": program.stop_signal,
        "pid_file": str(pid_file(folder, program.name)),
        "noted_file": str(noted_file(folder, program.name)),
    }
    write_private(launch_file(folder, program.name), json.dumps(description, indent=2))


def conf_section(folder: RunFolder, program: Program) -> str:
    """supervisord's section for a program. Nothing starts by itself: up starts things in order."""
    command = shlex.join([sys.executable, "-S", "-m", "scripts.stack.launch", str(launch_file(folder, program.name))])
    return f"""
[program:{program.name}]
command={_escaped(command)}
directory={_escaped(str(ROOT))}
autostart=false
autorestart=true
startsecs={program.steady_after_s}
startretries=1000000
stopsignal={program.stop_signal}
stopwaitsecs={STOPS_WITHIN_S}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={_escaped(str(folder.log(program.name)))}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
