"""The image's and the compose file's texts: checked without building or running anything."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.runtime.settings import load
from scripts import balancer_configuration
from scripts.stack.run_folder import ROOT

DOCKER = ROOT / "docker"
TOOLS = ROOT / ".venv" / "bin"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", "screenshots")


def check(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


@pytest.mark.proves("FR-022")
def test_the_dockerfiles_keep_to_the_rules() -> None:
    check(
        TOOLS / "hadolint", DOCKER / "Dockerfile", DOCKER / "graphite" / "Dockerfile", DOCKER / "rsyslog" / "Dockerfile"
    )


@pytest.mark.proves("FR-022")
def test_the_compose_file_keeps_to_its_schema() -> None:
    check(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


@pytest.mark.proves("FR-022", "FR-028")
def test_everything_starts_after_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed == "migrate" else "service_healthy"
            assert condition == {"condition": wanted}, f"{name} after {needed}"
            # Ours have the image's own health check.
            assert needed == "migrate" or "healthcheck" in services[needed] or "env_file" in services[needed]
    for ours in ("node", "votes-worker", "host-worker"):
        assert services[ours]["depends_on"].keys() == {"migrate", "rabbitmq", "redis"}
    assert services["migrate"]["depends_on"].keys() == {"postgres"}
    assert services["probe"]["depends_on"].keys() == {"node", "votes-worker", "host-worker"}
    assert services["haproxy"]["depends_on"].keys() == {"node", "votes-worker", "host-worker"}
    # Nobody waits for metrics, and a stack without them lacks nothing.
    metrics = {name for name, service in services.items() if "metrics" in service.get("profiles", [])}
    assert metrics == {"statsd", "carbon", "graphite", "grafana", "alertmanager", "alerter"}
    assert not any(metrics & services[name].get("depends_on", {}).keys() for name in services.keys() - metrics)


@pytest.mark.proves("FR-022", "FR-024")
def test_our_containers_can_write_nothing_and_gain_nothing(services: dict[str, Any]) -> None:
    ours = ("migrate", "node", "votes-worker", "host-worker", "alerter", "probe")
    for name in (*ours, "haproxy", "statsd", "carbon", "graphite", "alertmanager", "log-shipper"):
        service = services[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4000:8080", "127.0.0.1:9093:9093", "127.0.0.1:3000:3000"]


@pytest.mark.proves("FR-024")
def test_each_role_is_given_its_own_accounts_alone(services: dict[str, Any]) -> None:
    for ours in ("migrate", "node", "votes-worker", "host-worker", "alerter"):
        assert services[ours]["env_file"] == f"../.run-compose/{ours}.env"


@pytest.mark.proves("FR-027")
def test_containers_get_the_time_that_they_need_to_stop(services: dict[str, Any]) -> None:
    settings = load()
    for name, needed_s in (
        ("node", settings.node.kill_timeout_s),
        ("votes-worker", settings.worker.kill_timeout_s),
        ("host-worker", settings.worker.kill_timeout_s),
    ):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) >= needed_s, name


def locked(file: Path) -> dict[str, str]:
    """Each pinned version of a lock file, markers included, with its hashes."""
    blocks = re.split(r"\n(?=\S)", file.read_text().strip())
    return {head.rstrip(" \\"): hashes for head, _, hashes in (block.partition("\n") for block in blocks)}


@pytest.mark.proves("FR-022")
def test_each_role_finds_its_code_in_the_image(tmp_path: Path) -> None:
    # Given nothing of the checkout but what .dockerignore lets in
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, copy = ROOT / line[1:], tmp_path / line[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy_it = shutil.copytree if source.is_dir() else shutil.copyfile
            copy_it(source, copy, **({"ignore": _LEFT_OUT} if source.is_dir() else {}))
    # Then whatever docker/run names can be imported
    roles = re.findall(r"exec python -m (\S+)", (DOCKER / "run").read_text())
    assert {"scripts.checkup", "scripts.probing", "workers"} <= set(roles)
    names = [f"{role}.__main__" if (tmp_path / role.replace(".", "/")).is_dir() else role for role in roles]
    command = [sys.executable, "-c", "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"]
    done = subprocess.run([*command, *names], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.proves("FR-022")
def test_the_image_gets_the_versions_that_were_tested_and_no_tools() -> None:
    everything, image = locked(ROOT / "requirements.lock"), locked(DOCKER / "requirements.lock")
    assert image.items() <= everything.items(), "run scripts/lock"
    assert any(head.startswith("aiohttp==") for head in image)
    assert not any(head.startswith(("pytest==", "supervisor==", "mypy==")) for head in image)


@pytest.mark.proves("FR-029")
def test_balancers_behave_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, text in balancer_configuration.configurations().items():
        assert file.read_text() == text, f"{file.name}: run scripts/balancer-config"
    certificate = tmp_path / "site.pem"
    check("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
          "-subj", "/CN=polls.example", "-keyout", certificate, "-out", tmp_path / "certificate.pem")  # fmt: skip
    certificate.write_text(certificate.read_text() + (tmp_path / "certificate.pem").read_text())
    rendered = (ROOT / "nomad" / "haproxy.cfg.tpl").read_text().replace("/secrets/site.pem", str(certificate))
    for template, text in {
        '{{ range nomadService "votemill-node" }}': "",
        "{{ .ID }} {{ .Address }}:{{ .Port }}": "one 127.0.0.1:4000",
        "{{ end }}": "",
    }.items():
        assert template in rendered
        rendered = rendered.replace(template, text)
    (tmp_path / "nomad.cfg").write_text(rendered)
    monkeypatch.setenv("NODES", "localhost:4000")
    monkeypatch.setenv("BALANCER_COOKIE_KEY", "of-this-test")
    for file in (DOCKER / "haproxy" / "haproxy.cfg", tmp_path / "nomad.cfg"):
        check("haproxy", "-c", "-f", file)
