"""A deployment succeeds, or takes back what it has begun."""

import json
from collections.abc import Callable, Iterator

import pytest

from scripts.nomad import deploy
from scripts.nomad.api import Nomad
from scripts.nomad.deploy import Deployment, DeploymentFailed
from tests.nomad.nomad_server import TOKEN, Cluster, serving

pytestmark = pytest.mark.proves("FR-025", "SC-003", "US4.4")
OLD, NEW = "registry.example/votemill:1", "registry.example/votemill:2"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One that runs the old version."""
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    cluster = Cluster(outcomes={})
    with serving(cluster) as address:
        monkeypatch.setenv("NOMAD_ADDR", address)
        deploying(OLD)
        cluster.calls.clear()
        yield cluster


def deploying(image: str, limit_s: float = 60, verify: Callable[[], bool] = lambda: True) -> None:
    Deployment(Nomad(), "production", image, verify, limit_s=limit_s, pause_s=0.01).run()


def in_service(cluster: Cluster) -> set[str]:
    return {cluster.jobs[f"votemill-{name}"]["Image"] for name in ("worker", "node")}


@pytest.mark.proves("US4.1", "US4.2")
def test_a_new_version_comes_schema_first_and_nodes_last(cluster: Cluster) -> None:
    deploying(NEW)
    assert in_service(cluster) == {NEW}
    steps = [call for call in cluster.calls if call.startswith("POST /v1/job") and "parse" not in call]
    assert steps == ["POST /v1/jobs", "POST /v1/job/votemill-migrate/dispatch", "POST /v1/jobs", "POST /v1/jobs"]


def test_a_failed_migration_leaves_the_old_version_in_service(cluster: Cluster) -> None:
    cluster.outcomes["votemill-migrate"] = "failed"
    with pytest.raises(DeploymentFailed, match="migrations ended as failed"):
        deploying(NEW)
    assert in_service(cluster) == {OLD}


def test_a_failing_canary_takes_back_what_came_before_it(cluster: Cluster) -> None:
    cluster.outcomes["votemill-node"] = "failed"
    with pytest.raises(DeploymentFailed, match="votemill-node: failed: Failed due to unhealthy allocations"):
        deploying(NEW)
    assert in_service(cluster) == {OLD}
    # Nomad itself has reverted the nodes: only the workers are reverted from here
    assert [call for call in cluster.calls if "revert" in call] == ["POST /v1/job/votemill-worker/revert"]


def test_a_version_that_loses_votes_is_taken_back(cluster: Cluster) -> None:
    with pytest.raises(DeploymentFailed, match="votes of our own"):
        deploying(NEW, verify=lambda: False)
    assert in_service(cluster) == {OLD}


def test_votes_of_our_own_tell_whether_a_service_works(base_url: str) -> None:
    assert deploy.votes_arrive(base_url)
    assert not deploy.votes_arrive("http://127.0.0.1:9")


def test_a_canary_that_hangs_is_ended_at_the_limit(cluster: Cluster) -> None:
    cluster.outcomes["votemill-node"] = "running"
    with pytest.raises(DeploymentFailed, match="votemill-node to become healthy: not within"):
        deploying(NEW, limit_s=0.5)
    assert "POST /v1/deployment/fail/deployment-of-votemill-node" in cluster.calls
    assert in_service(cluster) == {OLD}


def test_a_migration_that_hangs_ends_at_the_limit(cluster: Cluster) -> None:
    cluster.outcomes["votemill-migrate"] = "running"
    with pytest.raises(DeploymentFailed, match="the migrations: not within"):
        deploying(NEW, limit_s=0.3)
    assert in_service(cluster) == {OLD}


def test_a_change_by_somebody_else_is_not_overwritten(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Nomad.job

    def look_and_lose(self: Nomad, job_id: str) -> dict[str, object] | None:
        present = look(self, job_id)
        if job_id == "votemill-worker":
            cluster.jobs[job_id]["JobModifyIndex"] += 1  # somebody registers it in this moment
        return present

    monkeypatch.setattr(Nomad, "job", look_and_lose)
    with pytest.raises(DeploymentFailed, match="Enforcing job modify index"):
        deploying(NEW)
    assert in_service(cluster) == {OLD}


@pytest.mark.proves("SC-009")
def test_every_deployment_leaves_a_record(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for outcome, code in (("failed", 1), ("complete", 0)):
        cluster.outcomes["votemill-migrate"] = outcome
        monkeypatch.setattr("sys.argv", ["deploy", "production", NEW])
        assert deploy.main() == code
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (record["environment"], record["image"]) == ("production", NEW)
        assert record["outcome"] == ("failed" if code else "ok") and bool(record["problem"]) == bool(code)


@pytest.mark.proves("SC-009")
def test_without_the_pipelines_token_nothing_is_deployed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", "somebody-else's")
    with pytest.raises(DeploymentFailed, match="403"):
        deploying(NEW)
    assert in_service(cluster) == {OLD}
