"""What is said when AWS has no secrets, and what is never said: botocore writes answers to its log as they are."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from models.runtime.secrets.providers import SecretsAway, SecretsRefused
from models.runtime.secrets.secrets_manager import SecretsManager
from models.runtime.settings import SettingsError, load
from scripts.stack.ports import LOOPBACK, any_free
from tests.models.runtime.secrets.conftest import SECRETS, LeadTo
from tests.models.runtime.secrets.stores import SecretsManagerStore

pytestmark = pytest.mark.proves("FR-024", "US4.3")


@pytest.fixture
def store(aws: ThreadedMotoServer, lead_to: LeadTo, tmp_path: Path) -> SecretsManagerStore:
    store = SecretsManagerStore(aws, f"votemill-{tmp_path.name}")
    store.hold(SECRETS)
    lead_to(store.variables)
    return store


def provider() -> SecretsManager:
    return SecretsManager(load(unused={"secrets", *("database", "broker", "security", "audit")}).secrets)


def test_at_level_debug_no_secret_is_logged(store: SecretsManagerStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = provider()
    logging.getLogger("botocore.parsers").setLevel(logging.DEBUG)
    try:
        assert asked.read() == SECRETS
    finally:
        logging.getLogger("botocore.parsers").setLevel(logging.NOTSET)
    assert any(record.name.startswith("botocore") for record in caplog.records)
    assert "of-this-test" not in caplog.text


def test_refusals_say_what_is_wrong(store: SecretsManagerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("hunter2", '["hunter2"]', "7"):
        store.hold_text(text)
        with pytest.raises(SecretsRefused, match="it is no JSON object") as error:
            provider().read()
        assert "hunter2" not in str(error.value)
    monkeypatch.setenv("VOTEMILL_SECRETS__AWS_SECRET", "none")
    with pytest.raises(SecretsRefused, match="aws secret none is refused: ResourceNotFoundException"):
        provider().read()
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(SecretsRefused, match="region"):
        provider().read()
    monkeypatch.setenv("VOTEMILL_SECRETS__AWS_SECRET", "")
    with pytest.raises(SettingsError, match=r"secrets\.aws_secret: missing; aws needs it"):
        load()


@pytest.mark.proves("FR-037")
def test_a_service_that_is_away_or_hangs_is_given_up(
    store: SecretsManagerStore, monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setenv("VOTEMILL_SECRETS__TIMEOUT_S", "0.2")
    for address in (silent_server, f"http://{LOOPBACK}:{any_free()}"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", address)
        began = time.monotonic()
        with pytest.raises(SecretsAway, match="is away"):
            provider().read()
        assert time.monotonic() - began < 10
