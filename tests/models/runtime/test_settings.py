"""Settings: everything is validated at start, and all problems are reported together."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from models.runtime.expectations import expected, range_of
from models.runtime.settings import ENVIRONMENTS, EX_CONFIG, SECTIONS, SETTINGS_FILE, SettingsError, load

pytestmark = pytest.mark.usefixtures("bare_environment")

ROOT = Path(__file__).resolve().parents[3]


def problems() -> list[str]:
    with pytest.raises(SettingsError) as error:
        load()
    return error.value.problems


@pytest.mark.proves("FR-023", "US4.2")
@pytest.mark.parametrize("environment", ["development", "test"])
def test_the_file_as_it_is_serves_development_and_tests(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    monkeypatch.setenv("VOTEMILL_ENV", environment)
    settings = load()
    assert settings.environment == environment
    assert settings.security.host_auth == "claim"


@pytest.mark.proves("FR-023", "US4.5")
def test_a_variable_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_BATCH__MAX_VOTES", "200")
    monkeypatch.setenv("VOTEMILL_LIMITS__UNLIMITED", "true")
    settings = load()
    assert (settings.batch.max_votes, settings.limits.unlimited) == (200, True)


@pytest.mark.proves("FR-028")
def test_all_problems_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an unknown key, an unknown section, wrong types and values out of range
    for name, value in {
        "BATCH__MAX_VOTE": "5",
        "BATCH__MAX_VOTES": "0",
        "NODE__PORT": "seventy",
        "DATABASE__URL": "mysql://x",
        "DATABASE__REPLICA_URL": "mysql://y",
        "DATABASE__REPLICA_MAX_LAG_S": "0",
        "SECURITY__HOST_AUTH": "perhaps",
        "SECURITY__SIGNING_KEYS": '@json ["short"]',
        "WORKR__THREADS": "1",
    }.items():
        monkeypatch.setenv(f"VOTEMILL_{name}", value)
    # Then one report names them all
    report = "\n".join(problems())
    for key in (
        "batch.max_vote: unknown key",
        "batch.max_votes",
        "node.port",
        "database.url",
        "database.replica_url",
        "database.replica_max_lag_s",
        "security.host_auth",
        "security.signing_keys",
        "workr: unknown section",
    ):
        assert key in report, report


@pytest.mark.proves("FR-028", "FR-034")
def test_the_primary_is_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_DATABASE__URL", "postgresql://one/votemill")
    monkeypatch.setenv("VOTEMILL_DATABASE__REPLICA_URL", "postgresql://one/votemill")
    assert any("database.replica_url" in problem for problem in problems())


@pytest.mark.proves("FR-028", "FR-010")
def test_an_empty_list_of_origins_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_SECURITY__ORIGINS", "@json []")
    assert any("security.origins" in problem for problem in problems())


@pytest.mark.proves("FR-028", "FR-024")
def test_a_key_file_that_cant_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOTEMILL_SECURITY__SIGNING_KEYS_FILE", str(tmp_path / "none"))
    (problem,) = problems()
    assert problem.startswith("security.signing_keys_file: ") and "No such file" in problem


@pytest.mark.proves("FR-028")
def test_a_trusted_proxy_must_be_an_address_or_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "VOTEMILL_SECURITY__TRUSTED_PROXIES", '@json ["10.0.0.0/8", "192.0.2.1", "10.0.0.1/8", "balancer"]'
    )
    report = [problem for problem in problems() if problem.startswith("security.trusted_proxies: ")]
    assert len(report) == 2 and "10.0.0.1/8" in report[0] and "balancer" in report[1], report


@pytest.mark.proves("FR-024", "FR-028")
def test_production_refuses_what_is_for_development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_ENV", "production")
    monkeypatch.setenv("VOTEMILL_LIMITS__UNLIMITED", "true")
    monkeypatch.setenv("VOTEMILL_SECURITY__SECURE_COOKIES", "false")
    monkeypatch.setenv("VOTEMILL_SECURITY__ORIGINS", '@json ["*"]')
    report = "\n".join(problems())
    for key in (
        "limits.unlimited",
        "security.secure_cookies",
        "security.origins",
        "security.signing_keys",
        "audit.address_key",
    ):
        assert key in report, report


@pytest.mark.proves("FR-028")
def test_cookies_are_secure_wherever_people_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_ENV", "staging")
    assert not [problem for problem in problems() if problem.startswith("security.secure_cookies")]
    monkeypatch.setenv("VOTEMILL_SECURITY__SECURE_COOKIES", "false")
    assert "security.secure_cookies: must be true in staging" in problems()


def test_an_unknown_environment_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_ENV", "prod")
    (problem,) = problems()
    assert "'prod'" in problem and all(name in problem for name in ENVIRONMENTS)


@pytest.mark.proves("FR-028")
@pytest.mark.parametrize("module", ["socket_tier", "workers"])
def test_a_process_with_wrong_settings_exits_with_78_and_says_why(module: str) -> None:
    arguments = ["votes"] if module == "workers" else []
    env = {**os.environ, "VOTEMILL_NODE__PORT": "seventy", "VOTEMILL_BATCH__MAX_VOTES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == EX_CONFIG
    assert "settings: node.port" in done.stderr
    assert "settings: batch.max_votes" in done.stderr
    assert "Traceback" not in done.stderr


def commented_keys() -> dict[str, str]:
    """Each key of the defaults in settings.toml, with the comment beside it."""
    found, section = {}, ""
    for line in SETTINGS_FILE.read_text().splitlines():
        if table := re.match(r"\[(?:default\.)?(\w+)", line):
            section = table[1] if line.startswith("[default.") else ""
        elif section and (key := re.match(r"(\w+) = .*?(?:# (.*))?$", line)):
            found[f"{section}.{key[1]}"] = key[2] or ""
    return found


@pytest.mark.proves("FR-023", "FR-028")
def test_the_file_tells_the_range_and_the_reason_of_every_key() -> None:
    comments = commented_keys()
    for section, kind in SECTIONS.items():
        for field in msgspec.structs.fields(kind):
            comment = comments[f"{section}.{field.name}"]
            assert comment.startswith(range_of(field.type)), f"{section}.{field.name}: {comment}"
            assert comment, f"{section}.{field.name} has no comment"
            expected(field.type)  # words for every type


@pytest.mark.proves("FR-023")
def test_a_text_that_looks_like_a_number_stays_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_SECURITY__ADMIN_TOKEN", "0123")
    monkeypatch.setenv("VOTEMILL_NODE__NAME", "7")
    settings = load()
    assert (settings.security.admin_token, settings.node.name) == ("0123", "7")


@pytest.mark.proves("FR-024", "FR-028", "FR-039")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECURITY__SIGNING_KEYS", '@json ["{secret}'),
        ("SECURITY__SIGNING_KEYS", "{secret}"),
        ("SECURITY__SIGNING_KEYS", "@format {{{secret}}}"),
        ("SECURITY__ADMIN_TOKEN", "@int {secret}"),
        ("SECURITY__ADMIN_TOKEN", "@jinja {{{{ {secret}"),
        ("AUDIT__ADDRESS_KEY", "{secret}"),
        ("DATABASE__URL", "mysql://votemill:{secret}@127.0.0.1/x"),
        ("BROKER__URL", "{secret}"),
        ("REDIS__URL", "http://:{secret}@127.0.0.1"),
    ],
)
def test_a_value_that_cant_be_read_is_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    # Too short for a key, so that each of these is refused for its form
    secret = "Zx81kQpWm4"  # pragma: allowlist secret
    monkeypatch.setenv(f"VOTEMILL_{name}", value.format(secret=secret))
    found = problems()
    assert found
    assert secret not in "".join(found)


@pytest.mark.proves("FR-028", "FR-010")
@pytest.mark.parametrize("origins", ["@json []", '@json ["*"]'])
def test_production_doesnt_start_for_every_page_there_is(origins: str) -> None:
    env = {**os.environ, "VOTEMILL_ENV": "production", "VOTEMILL_SECURITY__ORIGINS": origins}
    done = subprocess.run(
        [sys.executable, "-m", "socket_tier"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == EX_CONFIG
    # With everything else that is wrong with it
    for key in ("security.origins", "security.signing_keys", "audit.address_key"):
        assert f"settings: {key}" in done.stderr
