"""Reads job files with HashiCorp's own parser, and puts an environment's variables in their places."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pygohcl

from scripts.stack.run_folder import ROOT

FOLDER = ROOT / "nomad"
ENVIRONMENTS = ("staging", "production")

# The only expressions that job files use, so that they can be followed here; what Nomad itself fills in stays.
_VALUE = re.compile(r"var\.(\w+)")
_IN_TEXT = re.compile(r"\$\{var\.(\w+)\}")
_AS_JSON = re.compile(r"(?:\$\{)?jsonencode\(var\.(\w+)\)\}?")
_FILE = re.compile(r'file\("([^"]+)"\)')


class BadJob(Exception):
    """A file can't be read; the message says where and why."""


@dataclass(frozen=True)
class Job:
    """One job file. ``body`` is the job block as it is written, ``variables`` what it declares."""

    file: Path
    name: str
    body: dict[str, Any]
    variables: frozenset[str]
    example: bool


@dataclass
class Resolved:
    """A job as it would be in one environment."""

    job: Job
    environment: str
    body: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def groups(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self.body.get("group", {}).items()

    def tasks(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Each task with its name and its group."""
        for _, group in self.groups():
            for name, task in group.get("task", {}).items():
                yield name, task, group

    def variables_of(self, wanted: dict[str, Any]) -> Iterator[str]:
        """The paths of the Nomad variables that a task may read: its job's, its group's and its own."""
        own = f"nomad/jobs/{self.job.name}"
        for group_name, group in self.groups():
            for name, task in group.get("task", {}).items():
                if task is wanted:
                    yield from (own, f"{own}/{group_name}", f"{own}/{group_name}/{name}")


def parse(file: Path) -> dict[str, Any]:
    """:raises BadJob: with the parser's own words"""
    try:
        parsed: dict[str, Any] = pygohcl.loads(file.read_text(), True)
    except pygohcl.HCLParseError as error:
        raise BadJob(f"{file.name}: {error}") from error
    return parsed


def read_job(file: Path) -> Job:
    """:raises BadJob:"""
    parsed = parse(file)
    unknown = parsed.keys() - {"variable", "job"}
    if unknown or len(parsed.get("job", {})) != 1:
        raise BadJob(f"{file.name}: expected variables and one job, nothing else; got {', '.join(sorted(parsed))}")
    ((name, body),) = parsed["job"].items()
    return Job(file, name, body, frozenset(parsed.get("variable", {})), example="examples" in file.parts)


def read_all(folder: Path = FOLDER) -> list[Job]:
    """Ours and the examples. :raises BadJob:"""
    return [read_job(file) for file in sorted(folder.glob("**/*.nomad.hcl"))]


def resolve(job: Job, environment: str, values: Mapping[str, Any]) -> Resolved:
    """Put ``values`` in the place of variables; one that is missing is a problem."""
    resolved = Resolved(job, environment, {})

    def look_up(name: str) -> Any:
        if name not in job.variables:
            resolved.problems.append(f"var.{name}: not declared")
        elif name not in values:
            resolved.problems.append(f"var.{name}: has no value")
        return values.get(name)

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(item) for key, item in value.items()}
        if isinstance(value, list):
            return [put(item) for item in value]
        if not isinstance(value, str):
            return value
        if whole := _VALUE.fullmatch(value):
            return look_up(whole[1])
        if whole := _FILE.fullmatch(value):
            return (job.file.parent / whole[1]).read_text()
        text = _AS_JSON.sub(lambda found: json.dumps(look_up(found[1])), value)
        return _IN_TEXT.sub(lambda found: str(look_up(found[1])), text)

    resolved.body = put(job.body)
    return resolved


def seconds(duration: str) -> float:
    """Nomad's ``1m30s`` in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"{duration!r} is no duration")
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
