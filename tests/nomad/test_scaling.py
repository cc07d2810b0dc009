"""The scaler by Nomad: what it asks for, and that it holds still where Nomad refuses, is away or is busy."""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trustme

from models.runtime.settings import NomadSettings, load
from scripts.nomad.jobs import ENVIRONMENTS, FOLDER, parse, read_job, resolve
from scripts.scaling.actuators import JOBS, NomadJobs, NotDone, Standing
from tests.nomad.nomad_server import OPERATORS_TOKEN, SCALERS_TOKEN, TOKEN, Cluster, serving
from tests.nomad.test_deploy import NEW, OLD, deploying

pytestmark = pytest.mark.proves("FR-029", "SC-012")
PATIENCE_S = 60


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """One with our jobs: 4 nodes of 2 to 40, 2 votes workers of 1 to 8."""
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    cluster = Cluster(outcomes={})
    with serving(cluster) as address:
        monkeypatch.setenv("NOMAD_ADDR", address)
        deploying(OLD).run()
        cluster.calls.clear()
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> NomadSettings:
    return msgspec.structs.replace(load().nomad, url=os.environ["NOMAD_ADDR"], token=SCALERS_TOKEN)


@pytest.fixture
def jobs(settings: NomadSettings) -> NomadJobs:
    return NomadJobs(settings)


def desired(cluster: Cluster, tier: str) -> int:
    job, group = JOBS[tier]
    return int(cluster.jobs[job]["Groups"][group]["Count"])


def refused(jobs: NomadJobs, tier: str, count: int, why: str) -> None:
    with pytest.raises(NotDone, match=why):
        jobs.scale(tier, Standing(0), count, "too much load", {})


def test_a_count_is_changed_with_its_reason_and_figures_on_record(cluster: Cluster, jobs: NomadJobs) -> None:
    before = jobs.standing("votes")
    assert before.count == 2 and not before.busy
    jobs.scale("votes", before, 4, "too much load", {"waited_s": 7.5})
    assert jobs.standing("votes").count == desired(cluster, "votes") == 4
    assert cluster.scalings["votemill-worker", "votes"] == [
        {"Count": 4, "PreviousCount": 2, "Message": "scaler: too much load", "Meta": {"waited_s": 7.5}}
    ]
    assert (desired(cluster, "host"), desired(cluster, "nodes")) == (2, 4)


def test_what_nomad_refuses_is_not_done_and_said_in_its_words(cluster: Cluster, jobs: NomadJobs) -> None:
    refused(jobs, "votes", 9, "greater than scaling policy maximum: 9 > 8")
    refused(jobs, "nodes", 1, "less than scaling policy minimum: 1 < 2")
    cluster.jobs["votemill-worker"]["Groups"]["voters"] = cluster.jobs["votemill-worker"]["Groups"].pop("votes")
    refused(jobs, "votes", 3, "does not exist in job")
    with pytest.raises(NotDone, match="no group votes"):
        jobs.standing("votes")
    del cluster.jobs["votemill-node"]
    with pytest.raises(NotDone, match="job not found"):
        jobs.standing("nodes")


def test_of_two_scalers_that_decide_at_once_one_is_refused(jobs: NomadJobs) -> None:
    seen = jobs.standing("nodes")
    jobs.scale("nodes", seen, 5, "too much load", {})
    with pytest.raises(NotDone, match="conflicting job modify index"):
        jobs.scale("nodes", seen, 6, "too much load", {})
    assert jobs.standing("nodes").count == 5


def test_a_job_that_is_being_deployed_or_has_not_settled_is_busy(cluster: Cluster, jobs: NomadJobs) -> None:
    cluster.outcomes["votemill-worker"] = "running"
    jobs.scale("votes", jobs.standing("votes"), 3, "too much load", {})
    # Also for the other group of the job, and Nomad thinks so, too
    assert "deployment" in jobs.standing("votes").busy and "deployment" in jobs.standing("host").busy
    refused(jobs, "host", 3, "job scaling blocked due to active deployment")
    assert not jobs.standing("nodes").busy
    cluster.running["votemill-node", "node"] = 3
    assert jobs.standing("nodes").busy == "3 of 4 run"


def test_a_deployment_keeps_what_was_scaled(cluster: Cluster, jobs: NomadJobs) -> None:
    jobs.scale("votes", jobs.standing("votes"), 7, "too much load", {})
    deploying(NEW).run()
    assert jobs.standing("votes").count == 7


def test_the_scalers_token_scales_and_nothing_else(cluster: Cluster, settings: NomadSettings, jobs: NomadJobs) -> None:
    calls = (
        ("POST", "/v1/jobs"),
        ("POST", "/v1/job/votemill-node/revert"),
        ("POST", "/v1/deployment/fail/deployment-103"),
    )
    for method, path in calls:
        with pytest.raises(Exception, match="403 Permission denied"):
            jobs._nomad._call(method, path, {})
    jobs.use(msgspec.structs.replace(settings, token="another"))
    with pytest.raises(NotDone, match="403 Permission denied"):
        jobs.standing("votes")
    jobs.use(msgspec.structs.replace(settings, namespace="other"))
    with pytest.raises(NotDone, match="403 Permission denied"):
        jobs.standing("votes")
    jobs.use(msgspec.structs.replace(settings, token=OPERATORS_TOKEN))
    assert jobs.standing("votes").count == 2


def test_nomad_is_believed_only_with_a_certificate_of_the_ca_that_is_named(
    cluster: Cluster, settings: NomadSettings, tmp_path: Path
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with serving(cluster, context) as address:
        secure = msgspec.structs.replace(settings, url=address, ca_file=str(tmp_path / "ca.pem"))
        assert NomadJobs(secure).standing("votes").count == 2
        with pytest.raises(NotDone, match="certificate verify failed"):
            NomadJobs(msgspec.structs.replace(secure, ca_file=str(tmp_path / "other.pem"))).standing("votes")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_jobs_have_what_the_scaler_scales_within_the_limits_that_it_is_given(environment: str) -> None:
    values = parse(FOLDER / "variables" / f"{environment}.hcl")
    told = resolve(read_job(FOLDER / "scaler.nomad.hcl"), environment, values).body
    env = told["group"]["scaler"]["task"]["scaler"]["env"]
    for tier, (job_id, group) in JOBS.items():
        file = FOLDER / f"{job_id.removeprefix('votemill-')}.nomad.hcl"
        scaling = resolve(read_job(file), environment, values).body["group"][group]["scaling"]
        assert env[f"VOTEMILL_SCALER__{tier.upper()}__MAX"] == scaling["max"]
        assert getattr(load().scaler, tier).min >= scaling["min"]
