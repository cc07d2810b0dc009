"""Talks to the stack's supervisord: starts it, starts and stops programs through it, and asks how they are."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
import xmlrpc.client  # our own supervisor answers, on a socket of ours  # nosec B411
from collections.abc import Callable, Iterable
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from scripts.stack import processes, program
from scripts.stack.program import STOPS_WITHIN_S, Program
from scripts.stack.progress import StepFailed
from scripts.stack.run_folder import ROOT, RunFolder, write_private

STOPPED_STATES = {"STOPPED", "EXITED", "FATAL"}
UNREACHABLE = (OSError, http.client.HTTPException)

_ALREADY_STARTED = 60  # supervisor's RPC faults


class Supervisor:
    """The supervisord of one run folder. Making the object neither starts nor contacts it."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._socket = folder.supervisor_socket()

    def start(self, programs: list[Program]) -> None:
        """Start supervisord with these programs, all of them stopped.

        :raises StepFailed: it does not answer within 10 s
        """
        for each in programs:
            program.write_launch_file(self._folder, each)
        write_private(self._folder.supervisor_conf, self._configuration(programs))
        log = self._folder.log("supervisor-start")
        with log.open("w") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._folder.supervisor_conf)],
                cwd=ROOT,
                env=dict(_plain_environment()) | {processes.MARK: str(self._folder.path)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches up alone, which then stops everything in order.
            )
        wait_until(self.is_running, 10, "supervisord did not start", log, give_up=lambda: child.poll() is not None)

    def is_running(self) -> bool:
        """Whether it answers."""
        try:
            self._call("getState")
        except UNREACHABLE:
            return False
        return True

    def start_program(self, name: str) -> None:
        """Begin to start a program, unless supervisord itself has just begun to; ``states`` tells how it goes."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _ALREADY_STARTED:
                raise

    def add(self, added: Program) -> None:
        """Take one more program, stopped, under its care.

        :raises StepFailed: supervisord doesn't
        """
        program.write_launch_file(self._folder, added)
        sections = _without(self._folder.supervisor_conf.read_text(), added.name)
        write_private(self._folder.supervisor_conf, sections + program.conf_section(self._folder, added))
        self._change(added.name, "reloadConfig")
        self._change(added.name, "addProcessGroup", added.name)

    def remove(self, name: str) -> None:
        """Forget a program that has been stopped.

        :raises StepFailed: it still runs
        """
        self._change(name, "removeProcessGroup", name)
        write_private(self._folder.supervisor_conf, _without(self._folder.supervisor_conf.read_text(), name))
        program.launch_file(self._folder, name).unlink()

    def begin_to_stop(self, name: str) -> None:
        """Send a program its stop signal and don't start it again when it ends."""
        try:
            self._call("stopProcess", name, False)
        except xmlrpc.client.Fault:
            pass  # It is not running, which is what is wanted.

    def stop_programs(self, names: Iterable[str]) -> None:
        """Stop programs together and return when all have ended; supervisord kills what ignores its signal."""
        waiting = set(names)
        for name in waiting:
            self.begin_to_stop(name)
        deadline = time.monotonic() + STOPS_WITHIN_S + 10
        while waiting and time.monotonic() < deadline:
            states = self.states()
            waiting = {name for name in waiting if states.get(name, "STOPPED") not in STOPPED_STATES}
            time.sleep(0.05)

    def states(self) -> dict[str, str]:
        """Each program's state in supervisord's words: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, ..."""
        return {info["name"]: info["statename"] for info in self._call("getAllProcessInfo")}

    def exit_status(self, name: str) -> int:
        """Of a program that has ended; -1 when a signal ended it."""
        return int(self._call("getProcessInfo", name)["exitstatus"])

    def describe(self) -> list[tuple[str, str, str]]:
        """Name, state and a line about it (pid and uptime, or why it is down) of each program."""
        return [(info["name"], info["statename"], info["description"]) for info in self._call("getAllProcessInfo")]

    def shut_down(self) -> None:
        """End supervisord itself, after its programs have been stopped."""
        pid = int(self._call("getPID"))
        begun = processes.start_time(pid)
        self._call("shutdown")
        deadline = time.monotonic() + STOPS_WITHIN_S + 10
        while begun and processes.start_time(pid) == begun and time.monotonic() < deadline:
            time.sleep(0.02)

    def _change(self, name: str, method: str, *arguments: str) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            raise StepFailed(f"{name}: {fault.faultString}") from fault

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _configuration(self, programs: list[Program]) -> str:
        log = str(self._folder.log("supervisor")).replace("%", "%%")
        folder = str(self._folder.processes).replace("%", "%%")
        socket = str(self._socket).replace("%", "%%")
        as_root = "user=root\n" if os.geteuid() == 0 else ""  # Saying so silences a warning.
        head = f"""\
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile={log}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={folder}/supervisord.pid
childlogdir={folder}
nocleanup=true
{as_root}"""
        return head + "".join(program.conf_section(self._folder, each) for each in programs)


def _without(configuration: str, name: str) -> str:
    """supervisord's configuration without the section of a program."""
    start = "\n[program:"
    head, *sections = configuration.split(start)
    return head + "".join(start + section for section in sections if not section.startswith(f"{name}]"))


def wait_until(
    condition: Callable[[], bool],
    within_s: float,
    problem: str,
    log: Any = None,
    give_up: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for a condition.

    :raises StepFailed: ``problem``, after ``within_s`` seconds or as soon as ``give_up`` says that it is hopeless
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if give_up():
            raise StepFailed(problem, log)
        if time.monotonic() > deadline:
            raise StepFailed(f"{problem} within {within_s:.0f} s", log)
        time.sleep(0.1)


def _plain_environment() -> dict[str, str]:
    """The caller's environment without our settings, which the launcher brings to those who need them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_")}
