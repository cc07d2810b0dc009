"""What must be true of a job in one environment, beyond its keys: times that add up, checks, secrets, settings."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trustme

from models.runtime import reading
from models.runtime.settings import SECTIONS, Settings, SettingsError, load
from scripts.alerts.__main__ import UNUSED as ALERTER_UNUSED
from scripts.configuration import STAND_INS
from scripts.nomad.jobs import Resolved, seconds

DEPLOYMENT_LIMIT_S = 540  # what a pipeline gives a deployment before it takes it back
_START_S = 15  # from the placement of an allocation to its first passed check

# What each role of the image never uses, and so need not be given (see their calls of load_or_exit).
_UNUSED = {
    "node": {"database", "worker"},
    "worker": {"node", "security"},
    "alerter": ALERTER_UNUSED,
    "probe": SECTIONS.keys() - {"probe", "log", "metrics", "limits"},
    "scaler": {"database", "node", "worker", "security", "audit"},
    "migrate": SECTIONS.keys() - {"database", "secrets"},
}
_SECRET = re.compile(r"(?i)password|secret|token|_key|signing|://[^/{$]*:[^/{$]*@")
_STANDS_IN = "a-value-from-a-nomad-variable"
_STORE = "VOTEMILL_SECRETS__"  # where secrets are, and none of them
_ASSIGNED = re.compile(r"(VOTEMILL_\w+)=")


def problems(resolved: Resolved) -> Iterator[str]:
    """One line for each, without the job's name."""
    if resolved.problems:
        yield from resolved.problems  # without every value there is nothing to add up
        return
    for rule in (_updates, _scaling, _checks, _secrets, _ours):
        try:
            yield from rule(resolved)
        except KeyError as error:
            yield f"{error.args[0]}: missing"
        except ValueError as error:
            yield str(error)


def _updates(resolved: Resolved) -> Iterator[str]:
    if resolved.body.get("type") != "service":
        return
    update = resolved.body.get("update")
    if update is None:
        yield "update: missing; without it a new version replaces the old one unseen"
        return
    healthy_s, limit_s = seconds(update["healthy_deadline"]), seconds(update["progress_deadline"])
    settled_s = seconds(update["min_healthy_time"])
    if settled_s + _START_S >= healthy_s:
        yield f"update.healthy_deadline: too near min_healthy_time and the {_START_S} s of a start"
    for name, task, group in resolved.tasks():
        leaving_s = _leaving_s(task, group)
        if limit_s <= healthy_s + leaving_s:
            yield f"update.progress_deadline: must exceed healthy_deadline and {leaving_s:.0f} s, in which {name} stops"
    if resolved.job.example:
        return
    if not update.get("auto_revert"):
        yield "update.auto_revert: must be true, or a failed deployment stays half done"
    if update.get("canary") and not update.get("auto_promote"):
        yield "update.auto_promote: must be true, or the canary waits for a hand"
    for name, group in resolved.groups():
        waves = math.ceil(group["count"] / update["max_parallel"]) + bool(update.get("canary"))
        takes_s = waves * (settled_s + _START_S)
        if takes_s > DEPLOYMENT_LIMIT_S:
            yield f"update.max_parallel: {name} takes {takes_s:.0f} s to deploy; the limit is {DEPLOYMENT_LIMIT_S} s"


def _leaving_s(task: dict[str, Any], group: dict[str, Any]) -> float:
    delay = task.get("shutdown_delay", group.get("shutdown_delay", "0s"))
    return seconds(task["kill_timeout"]) + seconds(delay)


def _scaling(resolved: Resolved) -> Iterator[str]:
    for name, group in resolved.groups():
        scaling = group.get("scaling")
        if scaling and not scaling["min"] <= group["count"] <= scaling["max"]:
            yield f"{name}.count: {group['count']} is outside scaling's {scaling['min']} to {scaling['max']}"


def _checks(resolved: Resolved) -> Iterator[str]:
    wanted = resolved.body.get("update", {}).get("health_check") == "checks"
    for name, group in resolved.groups():
        services = _as_list(group.get("service"))
        checks = [check for service in services for check in _as_list(service.get("check"))]
        if wanted and not checks:
            yield f"{name}: update.health_check is checks, but there is none"
        for check in checks:
            if seconds(check["timeout"]) > seconds(check["interval"]):
                yield f"check {check['name']}: timeout exceeds interval"
            if check.get("on_update") == "ignore" and "check_restart" in check:
                yield f"check {check['name']}: on_update = ignore forbids check_restart"
            if check["name"] == "ready" and "check_restart" in check:
                yield "check ready: a node that drains would be restarted; check_restart belongs to live"
            if check["name"] == "live" and "check_restart" not in check:
                yield "check live: without check_restart a node that hangs stays"
        for service in services:
            if service["port"] not in group.get("network", {}).get("port", {}):
                yield f"{name}: service {service['name']} is on a port that the network doesn't have"


def _secrets(resolved: Resolved) -> Iterator[str]:
    for name, task, _ in resolved.tasks():
        for key, value in task.get("env", {}).items():
            if _SECRET.search(f"{key}={value}") and not (key.endswith("_FILE") or key.startswith(_STORE)):
                yield f"{name}.env.{key}: a secret doesn't belong in a job file; render it from a Nomad variable"
        for template in _as_list(task.get("template")):
            used = re.findall(r'nomadVar "([^"]+)"', template["data"])
            if used and not template["destination"].startswith(("${NOMAD_SECRETS_DIR}/", "NOMAD_SECRETS_DIR")):
                yield f"{name}: {template['destination']} holds secrets and must lie in ${{NOMAD_SECRETS_DIR}}"
            own = list(resolved.variables_of(task))
            yield from (
                f"{name}: may not read the Nomad variable {path}, only {' or '.join(own)}"
                for path in used
                if path not in own
            )


def _ours(resolved: Resolved) -> Iterator[str]:
    """Tasks with our image: how they are confined, and whether the settings they get are valid."""
    for name, task, group in resolved.tasks():
        config = task["config"]
        if config["image"].endswith(":latest") or ":" not in config["image"].rsplit("/", 1)[-1]:
            yield f"{name}: image {config['image']} names no version"
        if resolved.job.example:
            continue
        if not config.get("readonly_rootfs") or config.get("cap_drop") != ["all"]:
            yield f"{name}: must have readonly_rootfs and cap_drop"
        role = config["args"][0]
        if role in _UNUSED:
            yield from _settings(resolved, name, role, task, group)


def _settings(resolved: Resolved, name: str, role: str, task: dict[str, Any], group: dict[str, Any]) -> Iterator[str]:
    given = {key: str(value) for key, value in task.get("env", {}).items()}
    templates = _as_list(task.get("template"))
    for template in templates:
        given |= {key: STAND_INS.get(key, _STANDS_IN) for key in _ASSIGNED.findall(template["data"])}
    given.pop("VOTEMILL_DATABASE__REPLICA_URL", None)
    files = [Path(template["destination"]).name for template in templates]
    try:
        with TemporaryDirectory() as folder, _only(_secure(given | _stand_in_files(given, files, Path(folder)))):
            settings = load(unused=_UNUSED[role])
    except SettingsError as error:
        yield from (f"{name}: {problem}" for problem in error.problems)
        return
    if settings.environment != resolved.environment:
        yield f"{name}: VOTEMILL_ENV is {settings.environment}"
    yield from _times(name, role, task, group, settings)


def _times(name: str, role: str, task: dict[str, Any], group: dict[str, Any], settings: Settings) -> Iterator[str]:
    if role in ("alerter", "scaler"):
        return  # killed at any time they leave nothing undone
    needed_s = settings.node.kill_timeout_s if role == "node" else settings.worker.kill_timeout_s
    if seconds(task["kill_timeout"]) < needed_s:
        yield f"{name}.kill_timeout: must be at least {needed_s:g}s, {role}.kill_timeout_s of settings.toml"
    if role == "node":
        to = group["network"]["port"]["http"].get("to")
        if to != settings.node.port:
            yield f"{name}: port http leads to {to}, but the node listens on {settings.node.port}"


def _stand_in_files(given: dict[str, str], files: list[str], folder: Path) -> dict[str, str]:
    """Where templates would put files of secrets and CAs, such of no value."""
    found = {}
    if given.get(f"{_STORE}PROVIDER") == "files":
        found[f"{_STORE}FOLDER"] = str(folder)
        for name in set(files) - {"database.replica_url"}:
            (folder / name).write_text(_secure(given | STAND_INS).get(reading.variable(*name.split(".")), _STANDS_IN))
    keys_file = "VOTEMILL_SECURITY__SIGNING_KEYS_FILE"
    if keys_file in given:
        found[keys_file] = str(folder / "signing-keys.json")
        keys = {"keys": [{"key": STAND_INS["VOTEMILL_AUDIT__ADDRESS_KEY"]}]}
        Path(found[keys_file]).write_text(json.dumps(keys))
    trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
    return found | {name: str(folder / "ca.pem") for name in given if name.endswith("__CA_FILE")}


def _secure(given: dict[str, str]) -> dict[str, str]:
    """The addresses as they must be where CAs are named."""
    secure = dict(given)
    for section, scheme in (("BROKER", "amqp"), ("REDIS", "redis")):
        url = f"VOTEMILL_{section}__URL"
        if url in given and f"VOTEMILL_{section}__CA_FILE" in given:
            secure[url] = given[url].replace(f"{scheme}://", f"{scheme}s://")
    return secure


@contextmanager
def _only(variables: dict[str, str]) -> Iterator[None]:
    """An environment with these VOTEMILL_ variables and no others."""
    before = dict(os.environ)
    try:
        for key in before:
            if key.startswith("VOTEMILL_"):
                del os.environ[key]
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _as_list(value: Any) -> list[Any]:
    """Blocks of one kind: none, one, or several."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
