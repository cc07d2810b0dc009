"""scripts/pipeline: all that stands between a change and production, stage by stage, on any machine.

Without options everything that needs nobody's permission: checks, tests, migrations, advisories, the image and its bill
of materials, and a deployment to a server that answers like Nomad. ``push`` and ``deploy`` run when they are named. The
report and every stage's output go to .run-pipeline. Where NOTIFY_URL names a webhook, a failure is told there.

Exit status: 0 all stages passed, 1 one failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from scripts.nomad.jobs import ENVIRONMENTS
from scripts.release import checkout
from scripts.release.notify import notify
from scripts.release.running import Result, noticing_interrupts, run_stage
from scripts.release.stages import FOLDER, Stage, chosen, lacking, pushed_image, stages
from scripts.stack.progress import say

REPORT = "report.json"
_MARKS = {"passed": "✓", "failed": "✗", "unasked": "!", "skipped": "-"}


def main() -> int:
    options = parse(sys.argv[1:])
    given = os.environ | {"--environment": options.environment, "--image": options.image or pushed_image()}
    wanted = chosen(stages(given), options.until, options.only)
    if options.list:
        for stage in wanted:
            say(f"{stage.name:<12} {' && '.join(' '.join(command) for command in stage.commands)}")
        return 0
    for stage in wanted:
        if lacks := lacking(stage, given):
            print(f"scripts/pipeline: {stage.name} needs {', '.join(lacks)}", file=sys.stderr)
            return 2
    return run(wanted, FOLDER, options.resume, options.without_advisories)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = [stage.name for stage in stages({})]
    parser = argparse.ArgumentParser(prog="scripts/pipeline", description=__doc__)
    parser.add_argument("--until", default="", choices=names, metavar="STAGE", help=f"one of {', '.join(names)}")
    parser.add_argument("--only", default=[], type=lambda text: text.split(","), metavar="STAGE,STAGE")
    parser.add_argument("--resume", action="store_true", help="leave out what has passed for these very files already")
    parser.add_argument(
        "--without-advisories",
        action="store_true",
        help="for a machine without internet: go on where advisory databases and mirrors can't be asked (but not where "
        "they say something); the report says so",
    )
    parser.add_argument("--environment", default="", choices=["", *ENVIRONMENTS], help="for deploy")
    parser.add_argument("--image", default="", help="for push and deploy; deploy's default is what was pushed last")
    parser.add_argument("--list", action="store_true", help="show the stages and their commands, run none")
    options = parser.parse_args(words)
    if unknown := set(options.only) - set(names):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def run(wanted: Sequence[Stage], folder: Path, resume: bool = False, without_advisories: bool = False) -> int:
    """The exit status. The report is written after every stage, so that an interrupted run can be resumed."""
    folder.mkdir(exist_ok=True)
    began, tree, version = time.monotonic(), checkout.tree(), checkout.described()
    report: dict[str, object] = {
        "version": version,
        "tree": tree,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    passed = passed_before(folder, tree)
    done = set(passed) if resume else set()
    results: list[Result] = []
    code = 0
    with noticing_interrupts() as interrupted:
        for stage in wanted:
            if stage.name in done and not stage.by_name:
                results.append(Result(stage.name, "skipped", why="passed before, for the same files"))
                continue
            say(f"── {stage.name}")
            results.append(run_stage(stage, folder / f"{stage.name}.log", interrupted, without_advisories))
            code = 130 if interrupted.is_set() else int(results[-1].outcome == "failed")
            passed = passed - {stage.name} | ({stage.name} if results[-1].outcome == "passed" else set())
            say(line(results[-1]))
            report |= {"outcome": "failed" if code else "passed", "took_s": round(time.monotonic() - began, 1)}
            write_report(folder, report, results, passed)
            if code:
                break
    say("\n".join(["── pipeline", *map(line, results)]))
    if code and (url := os.environ.get("NOTIFY_URL")):
        run_url = os.environ.get("RUN_URL", "")
        notify(url, f"Votemill {version}: {results[-1].stage} failed: {results[-1].why} {run_url}".strip())
    return code


def line(result: Result) -> str:
    """One result for people."""
    return f"{_MARKS[result.outcome]} {result.stage:<12} {result.took_s:>7.1f} s  {result.why}".rstrip()


def write_report(folder: Path, report: dict[str, object], results: Sequence[Result], passed: set[str]) -> None:
    document = {**report, "stages": [result.as_json() for result in results], "passed": sorted(passed)}
    (folder / REPORT).write_text(json.dumps(document, indent=2) + "\n")


def passed_before(folder: Path, tree: str) -> set[str]:
    """The stages that have passed for the very same files."""
    try:
        report = json.loads((folder / REPORT).read_text())
    except FileNotFoundError:
        return set()
    return set(report["passed"]) if report["tree"] == tree else set()


if __name__ == "__main__":
    sys.exit(main())
