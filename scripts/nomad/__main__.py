"""scripts/nomad-check: parses job files with HashiCorp's parser, and checks keys and meaning for each environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from models.runtime.expectations import nearest
from scripts.nomad.jobs import ENVIRONMENTS, FOLDER, BadJob, Job, parse, read_all, resolve
from scripts.nomad.keys import unknown_keys
from scripts.nomad.rules import problems


def main() -> int:
    """0 when everything is right, otherwise 1."""
    found = list(check(FOLDER))
    for problem in found:
        print(f"✗ {problem}")
    if not found:
        print(f"✓ job files and variables for {', '.join(ENVIRONMENTS)}")
    return 1 if found else 0


def check(folder: Path) -> Iterator[str]:
    """Every problem, beginning with the file's name."""
    try:
        jobs = read_all(folder)
        variables = {name: parse(folder / "variables" / f"{name}.hcl") for name in ENVIRONMENTS}
    except BadJob as error:
        yield str(error)
        return
    declared = {name for job in jobs for name in job.variables}
    for environment, values in variables.items():
        for name in values.keys() - declared:
            yield f"variables/{environment}.hcl: {name}: no job has this variable{nearest(name, declared)}"
    for job in jobs:
        yield from (f"{job.file.name}: {problem}" for problem in _of_job(job))
        for environment, values in variables.items():
            for problem in dict.fromkeys(problems(resolve(job, environment, values))):
                yield f"{job.file.name} ({environment}): {problem}"


def _of_job(job: Job) -> Iterator[str]:
    yield from unknown_keys("job", job.body)
    text = job.file.read_text()
    for name in sorted(job.variables):
        if not re.search(rf"\bvar\.{name}\b", text):
            yield f"variable {name}: is not used"


if __name__ == "__main__":
    sys.exit(main())
