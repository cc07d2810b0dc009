"""A deployment succeeds, or takes back what it has begun; only the pipeline can make one, and it leaves a record."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg2
import pygohcl
import pytest

from scripts.nomad import deploy
from scripts.nomad.api import Nomad
from scripts.nomad.deployment import Deployment, DeploymentFailed
from scripts.nomad.jobs import FOLDER
from scripts.stack.run_folder import ROOT
from tests.nomad.nomad_server import OPERATORS_TOKEN, TOKEN, Cluster, serving

pytestmark = pytest.mark.proves("FR-025", "SC-003", "US4.4")
OLD, NEW = "registry.example/votemill:1", "registry.example/votemill:2"
PATIENCE_S = 30


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One that runs the old version."""
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    cluster = Cluster(outcomes={})
    with serving(cluster) as address:
        monkeypatch.setenv("NOMAD_ADDR", address)
        deploying(OLD).run()
        cluster.calls.clear()
        yield cluster


def all_is_well(_left_s: float) -> None:
    """Votes arrive."""


def deploying(image: str, **more: object) -> Deployment:
    options = {"verify": all_is_well, "limit_s": 60.0, "back_within_s": 0.3, "pause_s": 0.01} | more
    return Deployment(Nomad(), "production", image, **options)  # type: ignore[arg-type]


def fails(deployment: Deployment, why: str) -> None:
    with pytest.raises(DeploymentFailed, match=why):
        deployment.run()


def in_service(cluster: Cluster) -> set[str]:
    return {cluster.jobs[f"votemill-{name}"]["Image"] for name in ("worker", "node")}


@pytest.mark.proves("US4.1", "US4.2")
def test_a_new_version_comes_schema_first_and_nodes_last(cluster: Cluster) -> None:
    deployment = deploying(NEW)
    deployment.run()
    assert in_service(cluster) == {NEW} and deployment.taken_back is None
    steps = [call for call in cluster.calls if call.startswith("POST /v1/job") and "parse" not in call]
    assert steps == ["POST /v1/jobs", "POST /v1/job/votemill-migrate/dispatch", "POST /v1/jobs", "POST /v1/jobs"]


def test_a_failed_migration_leaves_the_old_version_in_service(cluster: Cluster) -> None:
    cluster.outcomes["votemill-migrate"] = "failed"
    fails(deploying(NEW), "migrations ended as failed")
    assert in_service(cluster) == {OLD}


def test_a_failing_canary_takes_back_what_came_before_it(cluster: Cluster) -> None:
    cluster.outcomes["votemill-node"] = "failed"
    deployment = deploying(NEW)
    fails(deployment, "votemill-node: failed: Failed due to unhealthy allocations")
    assert in_service(cluster) == {OLD} and deployment.taken_back
    # Nomad itself has reverted the nodes: being asked once more has made no version more
    assert [version["Image"] for version in cluster.versions["votemill-node"]] == [OLD, NEW, OLD]


def test_a_version_that_loses_votes_is_taken_back(cluster: Cluster) -> None:
    def votes_are_missing(_left_s: float) -> None:
        raise DeploymentFailed("votes of our own")

    deployment = deploying(NEW, verify=votes_are_missing)
    fails(deployment, "votes of our own")
    assert in_service(cluster) == {OLD} and deployment.taken_back


def test_a_canary_that_hangs_is_ended_at_the_limit(cluster: Cluster) -> None:
    cluster.outcomes["votemill-node"] = "running"
    fails(deploying(NEW, limit_s=0.5), "votemill-node to become healthy: not within")
    assert any(call.startswith("POST /v1/deployment/fail/") for call in cluster.calls)
    assert in_service(cluster) == {OLD}


def test_a_migration_that_hangs_ends_at_the_limit(cluster: Cluster) -> None:
    cluster.outcomes["votemill-migrate"] = "running"
    fails(deploying(NEW, limit_s=0.3), "the migrations: not within")
    assert in_service(cluster) == {OLD}


def test_it_is_told_when_the_old_version_doesnt_come_back(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.outcomes["votemill-node"] = "failed"
    cluster.reverts = "running"
    deployment = deploying(NEW)
    fails(deployment, "votemill-node: failed")
    assert deployment.taken_back is False
    assert "votemill-worker is NOT back at what version 0 was: it is not healthy yet" in capsys.readouterr().out


def test_what_is_in_service_already_is_deployed_without_a_change(cluster: Cluster) -> None:
    # Given that Nomad has forgotten the deployments of earlier hours
    cluster.deployments.clear()
    deploying(OLD, limit_s=1).run()
    assert len(cluster.versions["votemill-node"]) == 1


def test_a_nomad_without_a_leader_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch = Nomad.dispatch

    def dispatch_then_lose_the_leader(self: Nomad, *arguments: object) -> str:
        run = dispatch(self, *arguments)  # type: ignore[arg-type]
        cluster.answers_without_leader = 3
        return run

    monkeypatch.setattr(Nomad, "dispatch", dispatch_then_lose_the_leader)
    deploying(NEW).run()
    assert in_service(cluster) == {NEW}


def test_a_change_by_somebody_else_is_not_overwritten(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Nomad.job

    def look_and_lose(self: Nomad, job_id: str) -> dict[str, object] | None:
        present = look(self, job_id)
        if job_id == "votemill-worker":
            cluster.jobs[job_id] = cluster.jobs[job_id] | {"JobModifyIndex": 7}  # somebody registers it in this moment
        return present

    monkeypatch.setattr(Nomad, "job", look_and_lose)
    fails(deploying(NEW), "Enforcing job modify index")
    assert in_service(cluster) == {OLD} and not any("revert" in call for call in cluster.calls)


@pytest.mark.proves("SC-009")
def test_only_the_pipelines_token_deploys(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the policies as they are shipped
    deploying_capabilities = {"submit-job", "dispatch-job"}
    for file in (FOLDER / "policies").glob("*.hcl"):
        ((rules),) = pygohcl.loads(file.read_text())["namespace"].values()
        assert "policy" not in rules
        assert bool(deploying_capabilities & {*rules["capabilities"]}) == (file.stem == "pipeline")
    # When somebody else tries, then Nomad refuses
    for token in (OPERATORS_TOKEN, "somebody-else's", ""):
        monkeypatch.setenv("NOMAD_TOKEN", token)
        fails(deploying(NEW), "403 Permission denied")
    assert in_service(cluster) == {OLD}


@pytest.fixture
def image() -> str:
    return f"registry.example/votemill:{uuid4().hex}"


def run_deploy(image: str, service: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scripts.nomad.deploy", "production", image, "--service", service, *more]
    environment = os.environ | {"DEPLOYED_BY": "ada", "RUN_URL": "https://ci.example/7"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def on_record(database_url: str, image: str, entries: int) -> list[tuple[str, str, str, str]]:
    """Event, outcome, who and why of every record of an image, once there are so many."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT event, outcome, details->>'by', coalesce(details->>'problem', '') FROM audit_log"
                " WHERE action = %s ORDER BY id",
                (f"production {image}",),
            )
            found = cursor.fetchall()
            if len(found) >= entries:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
    finally:
        connection.close()


@pytest.mark.proves("SC-009", "US4.1")
def test_every_deployment_is_on_record_and_ends_with_votes(
    cluster: Cluster, base_url: str, database_url: str, image: str
) -> None:
    process = run_deploy(image, base_url)
    out, _ = process.communicate(timeout=PATIENCE_S)
    record = json.loads(out.splitlines()[-1])
    assert process.returncode == 0 and record["outcome"] == "ok" and not record["unrecorded"], out
    assert "votes of our own were counted and shown" in out and in_service(cluster) == {image}
    assert on_record(database_url, image, 2) == [("deployment_begun", "ok", "ada", ""), ("deployment", "ok", "ada", "")]


@pytest.mark.proves("SC-009")
def test_who_ends_a_deployment_has_it_taken_back_and_on_record(
    cluster: Cluster, base_url: str, database_url: str, image: str
) -> None:
    # Given a canary that hangs
    cluster.outcomes["votemill-node"] = "running"
    process = run_deploy(image, base_url)
    deadline = time.monotonic() + PATIENCE_S
    while "GET /v1/job/votemill-node/deployments" not in cluster.calls:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    # When the pipeline's run is cancelled, more than once
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    # Then the old version is in service, and everybody can read why
    assert process.returncode == 1 and json.loads(out.splitlines()[-1])["taken_back"] is True
    assert in_service(cluster) == {OLD}
    assert on_record(database_url, image, 2)[-1] == ("deployment", "failed", "ada", "ended by SIGTERM")


@pytest.mark.proves("SC-009")
def test_nothing_is_deployed_without_a_record(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deploy, "_RECORDED_WITHIN_S", 0)
    monkeypatch.setattr("sys.argv", ["deploy", "production", NEW, "--service", "http://127.0.0.1:9"])
    assert deploy.main() == 1
    assert "didn't put the deployment on record" in json.loads(capsys.readouterr().out.splitlines()[-1])["problem"]
    assert cluster.calls == []
