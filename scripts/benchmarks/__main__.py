"""scripts/bench. Exit status: 0 measured and every aim met, 1 an aim was missed, 2 something could not be measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.benchmarks import costs, meters, peer
from scripts.benchmarks.bench import Bench
from scripts.benchmarks.crowd import CrowdFailed
from scripts.benchmarks.lines import LINES
from scripts.benchmarks.meters import ProcessGone
from scripts.benchmarks.peer import PeerFailed
from scripts.benchmarks.results import Row, table
from scripts.benchmarks.stage import Stage, StageFailed
from scripts.benchmarks.turns import TurnInvalid
from scripts.loadtest.rest import RestError
from scripts.stack.interrupts import heed_interrupts
from scripts.stack.progress import say

_QUICK_SHARE = 0.1


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=5, help="turns per side (default %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the connections and rows, short turns, 2 pairs"
    )
    parser.add_argument("--only", nargs="+", choices=list(LINES), metavar="NAME", help=f"of {', '.join(LINES)}")
    parser.add_argument("--json", type=Path, help="raw figures (default: bench.json in the run folder)")
    parser.add_argument(
        "--costs", type=Path, help="write what scripts/capacity needs (after votes, equal-rate and crowd)"
    )
    parser.add_argument("--no-peer", action="store_true", help="without Socket.IO for Node.js")
    parser.add_argument("--prepared-peer", action="store_true", help="the peer with named, prepared statements")
    parser.add_argument("--run-dir", type=Path, default=Path(".run-bench"), help="emptied first (default %(default)s)")
    wanted = parser.parse_args(words)
    if wanted.pairs < 1:
        parser.error("--pairs must be positive")
    if wanted.quick:
        wanted.pairs = min(wanted.pairs, 2)
    return wanted


def main(words: list[str]) -> int:
    wanted = parse(words)
    heed_interrupts()
    machine = meters.describe_machine()
    say(f"Machine: {machine}")
    with_peer = peer.available() and not wanted.no_peer
    if not with_peer:
        say(
            "! no peer: Node.js and npm are needed for the comparison"
            if not wanted.no_peer
            else "! no peer (--no-peer)"
        )
    report: dict[str, Any] = {"machine": machine, "quick": wanted.quick, "prepared_peer": wanted.prepared_peer}
    rows: list[Row] = []
    failed: dict[str, str] = {}
    try:
        with Stage(wanted.run_dir) as stage:
            durability = stage.durability()
            say(f"Durability, as the live servers tell it: {durability}")
            durability.check()
            if with_peer:
                peer.install(stage.folder.log("peer-npm"))
            bench = Bench(stage, with_peer, wanted.pairs, _QUICK_SHARE if wanted.quick else 1.0, wanted.prepared_peer)
            report |= {"durability": str(durability), "raw": bench.raw}
            run_lines(bench, wanted.only or list(LINES), rows, failed)
    except (StageFailed, PeerFailed) as failure:
        say(f"✗ {failure}")
        return 2
    except KeyboardInterrupt:
        failed["interrupted"] = "the lines that were not reached are missing"
    out = wanted.json or wanted.run_dir / "bench.json"
    finish(report, rows, failed, out)
    if wanted.costs and not failed:
        costs.write(wanted.costs, report)
    print(f"\n{table(rows)}\n\nRaw figures: {out}")
    for line, why in failed.items():
        print(f"✗ {line}: {why}")
    return 2 if failed else int(any(row.verdict == "MISSED" for row in rows))


def finish(report: dict[str, Any], rows: list[Row], failed: dict[str, str], out: Path) -> None:
    """Complete the report and write it."""
    report["measured_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    report["load_average_at_end"] = [round(load, 2) for load in os.getloadavg()]
    report |= {"rows": [row.as_json() for row in rows], "failed": failed}
    out.write_text(json.dumps(report, indent=1) + "\n")


def run_lines(bench: Bench, names: list[str], rows: list[Row], failed: dict[str, str]) -> None:
    """Add all rows, and why lines failed: one that does is told and the others go on."""
    for name in (name for name in LINES if name in names):
        began = time.monotonic()
        say(f"… {name}")
        try:
            rows += LINES[name](bench)
        except (TurnInvalid, CrowdFailed, ProcessGone, RestError, StageFailed, PeerFailed) as failure:
            failed[name] = f"{type(failure).__name__}: {failure}"
            say(f"✗ {name}: {failed[name]}")
        else:
            say(f"✓ {name}  {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
