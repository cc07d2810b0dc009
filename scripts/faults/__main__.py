"""Exit status: 0 clean, 1 an acked vote is missing or doubled, totals or another ack are wrong, 2 nothing to break."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from scripts.faults import chaos, cluster, everything
from scripts.faults.load import Size
from scripts.faults.stack import NotRunning, RunningStack
from scripts.loadtest import report, timeline
from scripts.loadtest.fleet import CannotConnect, ProcessDied
from scripts.loadtest.rest import RestError
from scripts.stack.interrupts import heed_interrupts
from scripts.stack.progress import StepFailed, say

_AFTERWARDS_S = 300.0


def main() -> int:
    options = parse(sys.argv[1:])
    heed_interrupts()
    try:
        result = run(options)
    except (NotRunning, CannotConnect, ProcessDied, RestError, StepFailed) as problem:
        print(f"scripts/chaos: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("Stopped; everything runs again. Without the account: it needs the whole run.")
        return 130
    print(json.dumps(result) if options.json else report.render(result))
    if options.draw:
        timeline.draw(result, options.draw, f"{options.voters:,} voters while things break")
    say(f"longest time without an ack: {result['longest_pause_s']} s")
    return report.exit_status(result)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What the options ask for; the report."""
    size = Size(options.voters, options.rate, options.rooms, options.seconds + _AFTERWARDS_S)
    if options.rabbitmq_cluster:
        return cluster.run(Path(options.run_dir or ".run-cluster"), options.seconds, size)
    stack = RunningStack(options.run_dir or ".run")
    if options.everything:
        return everything.run(stack, options.seconds, size, options.url)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    say(f"chaos for {options.seconds:g} s, seed {seed}")
    return chaos.run(stack, options.seconds, seed, size, options.url)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long things break (default %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed breaks the same things at the same times")
    parser.add_argument("--url", default="", help="where voters connect (default: the run's balancer)")
    parser.add_argument("--run-dir", help="run folder of the stack to break (default .run)")
    parser.add_argument("--voters", type=int, default=100)
    parser.add_argument("--rate", type=float, default=400, help="votes/s over all voters (default %(default)s)")
    parser.add_argument("--rooms", type=int, default=3, help="polls to spread them over (default %(default)s)")
    parser.add_argument("--everything", action="store_true", help="kill -9 of all at once after --seconds, then up")
    parser.add_argument(
        "--rabbitmq-cluster",
        action="store_true",
        help="a stack of its own on three brokers, whose leader is killed again and again (folder .run-cluster)",
    )
    parser.add_argument("--json", action="store_true", help="the report as one JSON object on stdout")
    timeline.add_option(parser)
    wanted = parser.parse_args(words)
    if min(wanted.seconds, wanted.voters, wanted.rate, wanted.rooms) <= 0:
        parser.error("--seconds, --voters, --rate and --rooms must be positive")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
