"""The job files are right, and scripts/nomad-check finds what is not."""

import shutil
from pathlib import Path

import pytest

from scripts.nomad.__main__ import check
from scripts.nomad.jobs import FOLDER

SIGNING = "VOTEMILL_SECURITY__SIGNING_KEYS"

# The file, what is changed in it, and how the problem that is found goes on after the file's name.
MISTAKES = [
    # syntax and keys
    ("node.nomad.hcl", 'type        = "service"', 'type = "service"\n  type = "batch"', "invalid HCL"),
    ("node.nomad.hcl", 'shutdown_delay = "2s"', 'shutdown_delai = "2s"', "did you mean shutdown_delay?"),
    ("node.nomad.hcl", "auto_revert       = true", "auto_rewert = true", "did you mean auto_revert?"),
    ("worker.nomad.hcl", "readonly_rootfs = true", "read_only_rootfs = true", "did you mean readonly_rootfs?"),
    ("node.nomad.hcl", "limit = 4", "limits = 4", "did you mean limit?"),
    # variables
    ("variables/production.hcl", "node_count             = 4", "node_cuont = 4", "did you mean node_count?"),
    ("variables/staging.hcl", 'datacenters     = ["staging"]', "", "var.datacenters: has no value"),
    ("node.nomad.hcl", 'variable "origins" { type = list(string) }', "", "var.origins: not declared"),
    ("node.nomad.hcl", "count = var.node_count\n", "count = 2\n", "variable node_count: is not used"),
    # times that don't add up
    ("node.nomad.hcl", 'kill_timeout = "45s"', 'kill_timeout = "30s"', "node.kill_timeout: must be at least 45s"),
    ("worker.nomad.hcl", 'kill_timeout = "45s"', 'kill_timeout = "30s"', "votes.kill_timeout: must be at least 45s"),
    (
        "node.nomad.hcl",
        'progress_deadline = "4m"',
        'progress_deadline = "2m"',
        "update.progress_deadline: must exceed",
    ),
    ("node.nomad.hcl", 'healthy_deadline  = "2m"', 'healthy_deadline = "20s"', "update.healthy_deadline: too near"),
    ("variables/production.hcl", "node_count             = 4", "node_count = 40", "node takes 1230 s to deploy"),
    ("node.nomad.hcl", 'timeout  = "3s"', 'timeout = "9s"', "check ready: timeout exceeds interval"),
    # deployments that would stay half done, or restart what is not broken
    ("node.nomad.hcl", "auto_revert       = true", "auto_revert = false", "update.auto_revert: must be true"),
    ("node.nomad.hcl", "auto_promote      = true", "auto_promote = false", "update.auto_promote: must be true"),
    (
        "node.nomad.hcl",
        'check_restart {\n          limit = 4\n          grace = "30s"\n        }',
        "",
        "check live: without",
    ),
    (
        "node.nomad.hcl",
        'path     = "/api/health/ready"',
        'path = "/"\n        check_restart {\n          limit = 3\n        }',
        "check ready: a node that drains",
    ),
    (
        "variables/staging.hcl",
        "node_count_max         = 4",
        "node_count_max = 1",
        "node.count: 2 is outside scaling's 2 to 1",
    ),
    ("node.nomad.hcl", 'min_healthy_time  = "15s"', 'min_healthy_time = "15"', "'15' is no duration"),
    ("node.nomad.hcl", 'kill_timeout = "45s"', "", "kill_timeout: missing"),
    # secrets
    (
        "node.nomad.hcl",
        "env {\n",
        f'env {{\n        {SIGNING} = "hunter2"\n',
        f"node.env.{SIGNING}: a secret doesn't belong",
    ),
    (
        "node.nomad.hcl",
        "env {\n",
        'env {\n        VOTEMILL_REDIS__URL = "redis://:hunter2@redis/0"\n',
        "a secret doesn't belong",
    ),
    (
        "node.nomad.hcl",
        'destination = "${NOMAD_SECRETS_DIR}/votemill.env"',
        'destination = "local/votemill.env"',
        "must lie in ${NOMAD_SECRETS_DIR}",
    ),
    (
        "migrate.nomad.hcl",
        'nomadVar "nomad/jobs/votemill-migrate"',
        'nomadVar "nomad/jobs/votemill-worker"',
        "may not read the Nomad variable",
    ),
    (
        "worker.nomad.hcl",
        'nomadVar "nomad/jobs/votemill-worker/votes"',
        'nomadVar "nomad/jobs/votemill-worker/host"',
        "votes: may not read the Nomad variable nomad/jobs/votemill-worker/host",
    ),
    # settings that the processes would refuse
    (
        "variables/production.hcl",
        'alertmanager_url = "http://alertmanager-1',
        'alertmanager_url = "tcp://alertmanager-1',
        "alerter: alerts.alertmanager_url: expected http(s)://HOST:PORT",
    ),
    (
        "worker.nomad.hcl",
        'VOTEMILL_DATABASE__CA_FILE    = "${NOMAD_SECRETS_DIR}/ca.pem"\n',
        "",
        "votes: database.ca_file: a plain connection to database is refused in production",
    ),
    (
        "node.nomad.hcl",
        "VOTEMILL_NODE__PUBLIC_URL ",
        "VOTEMILL_NODE__PUBLIC_ULR ",
        "node.public_ulr: unknown key; did you mean public_url?",
    ),
    (
        "worker.nomad.hcl",
        '"${NOMAD_SECRETS_DIR}/database.url"',
        '"${NOMAD_SECRETS_DIR}/database.uri"',
        "database.uri: unknown secret; did you mean database.url?",
    ),
    (
        "worker.nomad.hcl",
        '"${NOMAD_SECRETS_DIR}/database.url"',
        '"${NOMAD_SECRETS_DIR}/database-url"',
        "database.url: an account without password or certificate is refused in staging; files holds none",
    ),
    (
        "node.nomad.hcl",
        "VOTEMILL_AUDIT__ADDRESS_KEY={{ .address_key | toJSON }}\n",
        "",
        "audit.address_key: the development default is refused in staging; files holds none",
    ),
    (
        "variables/production.hcl",
        '["https://polls.example"]',
        '["https://polls.example/"]',
        "security.origins: expected a list",
    ),
    (
        "variables/staging.hcl",
        'environment     = "staging"',
        'environment = "production"',
        "VOTEMILL_ENV is production",
    ),
    ("node.nomad.hcl", "to = 4000", "to = 4001", "port http leads to 4001"),
    # containers
    ("node.nomad.hcl", "readonly_rootfs = true", "readonly_rootfs = false", "must have readonly_rootfs"),
    ("variables/production.hcl", "votemill:0.1.0", "votemill:latest", "names no version"),
]


@pytest.mark.proves("FR-022", "FR-024", "FR-027", "FR-029", "US4.2")
def test_the_job_files_are_right_in_every_environment() -> None:
    assert list(check(FOLDER)) == []


@pytest.mark.proves("FR-028")
@pytest.mark.parametrize(("file", "right", "wrong", "message"), MISTAKES, ids=[message for *_, message in MISTAKES])
def test_a_mistake_is_found(tmp_path: Path, file: str, right: str, wrong: str, message: str) -> None:
    folder = tmp_path / "nomad"
    shutil.copytree(FOLDER, folder)
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong, 1))
    found = list(check(folder))
    assert any(message in problem for problem in found), found
