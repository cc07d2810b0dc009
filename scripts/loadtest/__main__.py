"""Voters, votes, and the account. Exit status: 0 clean, 1 not clean, 2 wrong usage or nobody to talk to."""

import argparse
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from scripts.loadtest import account, report, rest, timeline
from scripts.loadtest.crowd import Progress
from scripts.loadtest.fleet import CannotConnect, Fleet, ProcessDied, fitting_processes, seat_voters
from scripts.loadtest.voter import BROWSER, EAGER

_OPTIONS = 4
_ANSWERS_S = 30.0
_SETTLE_S = 30.0
_JOIN_FIRST_S, _JOINS_PER_S = 30.0, 50.0
_LATE_VOTES_S = 1.0
_UPDATES_ARRIVE_S = 1.0


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; values that make no sense end with status 2."""
    parser = argparse.ArgumentParser(prog="scripts/load", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        help="node or balancer, may be given several times (default: BASE_URL of the run)",
    )
    parser.add_argument("--voters", type=int, required=True, help="participants, each with a WebSocket of its own")
    parser.add_argument("--seconds", type=float, required=True, help="how long they vote")
    parser.add_argument(
        "--rate",
        type=float,
        help="votes/s over all voters, whatever the answers (default: each votes again when answered)",
    )
    parser.add_argument("--rooms", type=int, default=1, help="polls to spread them over")
    parser.add_argument(
        "--from", dest="sources", action="append", help="address that voters come from, may be given several times"
    )
    parser.add_argument(
        "--as-browsers",
        action="store_true",
        help="come back after a cut like the MVP's page: in 0.5 to 1.5 s, at most five times (else sooner, for ever)",
    )
    parser.add_argument("--processes", type=int, help="load processes (default: as few as fit)")
    parser.add_argument("--dsn", help="database for the account (default: DATABASE_URL of the environment or the run)")
    parser.add_argument(
        "--run-dir", type=Path, default=Path(".run"), help="the run whose env file fills in what is not given"
    )
    parser.add_argument(
        "--close", action="store_true", help="close the polls while votes still come; the totals must become final"
    )
    parser.add_argument("--keep-open", action="store_true", help="leave the polls open at the end")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object on stdout")
    timeline.add_option(parser)
    wanted = parser.parse_args(words)
    if wanted.voters < 1 or wanted.rooms < 1 or wanted.seconds <= 0 or (wanted.processes or 1) < 1:
        parser.error("--voters, --rooms, --processes and --seconds must be positive")
    if wanted.rate is not None and wanted.rate <= 0:
        parser.error("--rate must be positive")
    if wanted.close and wanted.keep_open:
        parser.error("--close and --keep-open exclude each other")
    return wanted


def read_env_file(path: Path) -> dict[str, str]:
    """``NAME=value`` lines of a run's env file, quotes and ``export`` taken off; empty when there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (re.match(r"\s*(?:export\s+)?(\w+)=(.*)", line) for line in lines)
    return {pair[1]: pair[2].strip().strip("\"'") for pair in pairs if pair}


def main(words: Sequence[str]) -> int:
    """One run from the command line to the exit status."""
    wanted = parse_arguments(words)
    run_env = read_env_file(wanted.run_dir / "env")
    urls = wanted.url or [run_env[name] for name in ("BASE_URL",) if run_env.get(name)]
    if not urls:
        return _unusable("no --url, and no run whose env file names one")
    try:
        bases = [rest.parse_base(url) for url in urls]
        node_urls = [] if wanted.url else re.split(r"[,\s]+", run_env.get("NODE_URLS", "").strip())
        told_by = list(dict.fromkeys(bases + [rest.parse_base(url) for url in node_urls if url]))
        rooms = [rest.open_room(bases[number % len(bases)], number + 1, _OPTIONS) for number in range(wanted.rooms)]
    except (ValueError, KeyError, rest.RestError) as error:
        return _unusable(str(error))
    dsn = wanted.dsn or os.environ.get("DATABASE_URL") or run_env.get("DATABASE_URL")
    try:
        result = run_load(wanted, bases, told_by, rooms, dsn)
    except (CannotConnect, ProcessDied) as error:
        return _unusable(str(error))
    print(json.dumps(result) if wanted.json else report.render(result))
    if wanted.draw:
        timeline.draw(result, wanted.draw, f"{wanted.voters:,} voters in {wanted.rooms} rooms")
    return report.exit_status(result)


def run_load(
    wanted: argparse.Namespace,
    bases: Sequence[rest.Base],
    told_by: Sequence[rest.Base],
    rooms: Sequence[rest.Room],
    dsn: str | None,
) -> dict[str, object]:
    """Gather, vote, wait for the answers, wait for the totals; the report.

    :raises CannotConnect: not everybody could join
    :raises ProcessDied: a part of the ledger is lost
    """
    bar = report.ProgressBar(wanted.seconds)
    join_s = _JOIN_FIRST_S + wanted.voters / _JOINS_PER_S
    at_most_s = join_s + wanted.seconds + _ANSWERS_S + 3 * _SETTLE_S + 60
    phase, phase_from, phase_s = "joining", monotonic(), join_s

    def show(progress: Progress) -> None:
        share = progress.joined / wanted.voters if phase == "joining" else (monotonic() - phase_from) / phase_s
        bar.show(phase, share, progress)

    seats = seat_voters(
        wanted.voters,
        [(room.code, room.options) for room in rooms],
        [(base.host, base.port) for base in bases],
        wanted.sources or [None],
    )
    processes = wanted.processes or fitting_processes(wanted.voters, wanted.rate)
    run, processes, comeback = (
        secrets.token_hex(4),
        min(processes, wanted.voters),
        BROWSER if wanted.as_browsers else EAGER,
    )
    with Fleet(seats, run, wanted.rate, processes, at_most_s, show, comeback) as fleet:
        fleet.gather(join_s)
        phase, phase_from, phase_s = "voting", monotonic(), wanted.seconds
        fleet.vote(wanted.seconds, _LATE_VOTES_S if wanted.close else 0.0)
        fleet.watch(wanted.seconds)
        if wanted.close:
            close_rooms(bases[0], rooms)
            fleet.watch(_LATE_VOTES_S / 2)
        phase, phase_from, phase_s = "waiting for answers", monotonic(), _ANSWERS_S
        quiet = fleet.quiesce(_ANSWERS_S)
        phase, phase_from, phase_s = "waiting for the totals", monotonic(), _SETTLE_S
        held = account.settle(fleet.ledgers, told_by, dsn, _SETTLE_S, final=wanted.close, pause=fleet.watch)
        fleet.watch(_UPDATES_ARRIVE_S)
        outcomes = fleet.outcomes()
    bar.clear()
    if not wanted.close and not wanted.keep_open:
        close_rooms(bases[0], rooms)
    result = report.build_report(outcomes, held, wanted.seconds, time.process_time(), quiet)
    return result | {"timeline": timeline.seconds_of(outcomes)}


def close_rooms(base: rest.Base, rooms: Sequence[rest.Room]) -> None:
    """Close the polls; one that can't be closed is said and left."""
    for room in rooms:
        try:
            rest.change_state(base, room, "closed")
        except rest.RestError as error:
            print(f"poll {room.code} was not closed: {error}", file=sys.stderr)


def _unusable(why: str) -> int:
    print(f"scripts/load: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
