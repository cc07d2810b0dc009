"""scripts/config: what holds where, without showing a secret."""

import os

import pytest

from models.runtime.settings import EX_CONFIG
from scripts import configuration


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ, *configuration.STAND_INS]:
        if name.startswith("VOTEMILL_"):
            monkeypatch.setenv(name, "")  # so that what the script sets is taken back after the test
            monkeypatch.delenv(name)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["config", *arguments])
    return configuration.main()


@pytest.mark.proves("FR-023", "FR-028", "US4.2")
def test_every_environment_is_usable_once_it_has_its_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", "production") == EX_CONFIG
    assert "broker.url: RabbitMQ's default account is refused in production" in capsys.readouterr().out
    assert run(monkeypatch, "--without-secrets", "check", "development", "test", "staging", "production") == 0


@pytest.mark.proves("FR-024")
def test_print_names_where_a_value_comes_from_and_hides_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOTEMILL_BATCH__MAX_VOTES", "200")
    monkeypatch.setenv(
        "VOTEMILL_BROKER__URL",
        "amqp://u:hunter2@one/%2F,amqp://u:hunter2@two/%2F",  # pragma: allowlist secret
    )
    monkeypatch.setenv("VOTEMILL_SECURITY__ADMIN_TOKEN", "hunter2")
    assert run(monkeypatch, "print") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "batch.max_votes = 200  # VOTEMILL_BATCH__MAX_VOTES" in lines
    assert 'security.host_auth = "claim"  # [development.security]' in lines
    assert "node.port = 4000  # [default.node]" in lines
    assert "broker.url = amqp://(hidden)@one,amqp://(hidden)@two  # VOTEMILL_BROKER__URL" in lines
    assert "hunter2" not in str(lines) and "development-" not in str(lines)


@pytest.mark.proves("US4.2")
def test_diff_shows_what_is_different_and_only_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--without-secrets", "diff", "staging", "production") == 0
    assert capsys.readouterr().out.splitlines() == [
        "poll.retention_days: 7 (staging), 30 (production)",
        "security.token_max_age_s: 604800 (staging), 2592000 (production)",
    ]
