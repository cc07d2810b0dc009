"""scripts/up: from a checkout to a running Votemill, step by step, with every step shown."""

from __future__ import annotations

import argparse
import sys
import time

from scripts.stack.bring_up import bring_up
from scripts.stack.interrupts import heed_interrupts
from scripts.stack.plan import Options, Plan
from scripts.stack.progress import StepFailed, say
from scripts.stack.run_folder import RunFolder
from scripts.stack.stopping import stop_everything
from scripts.stack.supervision import Supervisor


def main() -> int:
    options = parse(sys.argv[1:])
    folder = RunFolder(options.run_dir)
    heed_interrupts()
    try:
        with folder.locked():
            if folder.ready_mark.exists() and Supervisor(folder).is_running():
                say(f"Votemill is already running at {folder.ready_mark.read_text()} (scripts/down stops it)")
                return 0
            plan = bring_up(options, folder)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    except KeyboardInterrupt:
        say("Stopped before it was ready; nothing is left running.")
        return 130
    return 0 if options.detach else stay(plan)


def stay(plan: Plan) -> int:
    """Keep the terminal until Ctrl-C, which stops everything, or until scripts/down has stopped it from elsewhere."""
    say("Ctrl-C stops everything.")
    supervisor = Supervisor(plan.folder)
    try:
        while supervisor.is_running():
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("\nStopping: nodes, workers, then servers.")
    with plan.folder.locked():
        # A stop by scripts/down has taken the mark away: then there is nothing to do, perhaps somebody else's start.
        expected = not plan.folder.ready_mark.exists()
        if not expected:
            stop_everything(plan.folder)
            say("Stopped.")
    return 0


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/up", description="Start Votemill with private servers of its own, or show what is missing."
    )
    parser.add_argument("--port", type=int, default=4000, help="where browsers reach it (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=1, help="socket nodes; a load balancer goes before several")
    parser.add_argument("--workers", type=int, default=1, help="worker masters for votes")
    parser.add_argument("--host-workers", type=int, default=1, help="worker masters for polls, members and audit")
    parser.add_argument("--run-dir", default=".run", help="folder for data, logs and pids (default %(default)s)")
    parser.add_argument(
        "--detach", action="store_true", help="return when it is ready, instead of staying until Ctrl-C"
    )
    parser.add_argument("--unlimited", action="store_true", help="lift every rate limit, for load tests only")
    parser.add_argument("--replica", action="store_true", help="a standby of PostgreSQL, which exports are read from")
    parser.add_argument(
        "--synchronous", action="store_true", help="commit only what the standby has on its disk, too (with --replica)"
    )
    parser.add_argument(
        "--backup", action="store_true", help="archive PostgreSQL's log all the time, for scripts/backup"
    )
    parser.add_argument("--metrics", action="store_true", help="StatsD, Graphite, graphs at /operations, and alerts")
    parser.add_argument("--tls", action="store_true", help="servers that take nothing but TLS from both sides")
    parser.add_argument(
        "--accounts", action="store_true", help="an account for each role, which may do what the role does and no more"
    )
    parser.add_argument(
        "--links", action="store_true", help="a TCP proxy before each process's servers, for scripts/chaos to halve"
    )
    parser.add_argument("--also-install", action="append", default=[], help=argparse.SUPPRESS)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
