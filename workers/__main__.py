"""``python -m workers votes|host [dramatiq options]``: one Dramatiq master with one worker process.

The master is this very process. When its worker dies it stops too, with an exit code that is not 0, and the supervisor
starts both anew.
"""

import os
import sys

from models.runtime import logs
from models.runtime.settings import Settings, load_or_exit

EX_USAGE = 64  # sysexits.h
_CONSUMER_RESTART_MS = "500"


def main(arguments: list[str]) -> int:
    # Dramatiq reads this when it is imported; its own 3 s is most of the time that a recovery may take.
    os.environ.setdefault("dramatiq_restart_delay", _CONSUMER_RESTART_MS)
    from dramatiq import cli

    from workers.process import ROLES

    if not arguments or arguments[0] not in ROLES:
        print(f"usage: python -m workers {'|'.join(ROLES)} [dramatiq options]", file=sys.stderr)
        return EX_USAGE
    role, *options = arguments
    settings = load_or_exit(unused={"node", "security"})
    logs.configure(
        settings.log, service="votemill-worker", instance=settings.worker.name, environment=settings.environment
    )
    return cli.main(cli.make_argument_parser().parse_args(_options(settings, role, ROLES[role], options)))


def _options(settings: Settings, role: str, queues: tuple[str, ...], options: list[str]) -> list[str]:
    threads = settings.worker.vote_threads if role == "votes" else settings.worker.threads
    return [
        f"workers.app:{role}",
        "--processes", "1",
        "--threads", str(threads),
        "--worker-shutdown-timeout", str(round(settings.worker.shutdown_s * 1000)),
        "--skip-logging",
        *options,
        "--queues", *queues,
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
