"""Vault's tokens: got, kept alive, got anew; and what is said when there are no secrets to be had."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, Timer
from uuid import uuid4

import msgspec
import pytest

from models.runtime.secrets.providers import SecretsAway, SecretsRefused
from models.runtime.secrets.vault import Vault
from models.runtime.settings import EX_CONFIG, SECTIONS, SecretSettings, SettingsError, load
from scripts.stack.ports import LOOPBACK, any_free
from scripts.stack.run_folder import ROOT
from tests.models.runtime.secrets.conftest import SECRETS, LeadTo
from tests.models.runtime.secrets.stores import Bao, VaultStore
from tests.models.runtime.secrets.test_stores import OTHER, eventually, watching

pytestmark = pytest.mark.proves("FR-024", "US4.3")
SOON_S = 5.0  # far above the time-outs below
PATIENCE_S = 30.0


@pytest.fixture
def settings(bare_environment: None, bao: Bao) -> SecretSettings:
    """Without a way to log in."""
    bao.hold(SECRETS)
    return msgspec.structs.replace(
        load().secrets, provider="vault", vault_address=bao.address, vault_path="votemill", timeout_s=2
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def by_role(settings: SecretSettings, folder: Path, role_id: str, secret_id: str) -> Vault:
    file = folder / uuid4().hex
    file.write_text(secret_id)
    return Vault(msgspec.structs.replace(settings, vault_role_id=role_id, vault_secret_id_file=str(file)))


def by_token(settings: SecretSettings, folder: Path, token: str) -> Vault:
    file = folder / uuid4().hex
    file.write_text(f"{token}\n")
    return Vault(msgspec.structs.replace(settings, vault_token_file=str(file)))


def test_a_token_is_renewed_as_long_as_vault_allows_it_and_then_got_anew(
    settings: SecretSettings, folder: Path, bao: Bao
) -> None:
    # Given tokens that live two seconds unless they are renewed, and three at most
    vault = by_role(settings, folder, *bao.role("short", token_ttl="2s", token_max_ttl="3s"))
    renewed, gone, known = False, False, set()
    deadline = time.monotonic() + PATIENCE_S
    while not (renewed and gone):
        assert time.monotonic() < deadline, (renewed, gone)
        assert vault.read() == SECRETS
        alive = bao.tokens("short")
        renewed = renewed or any("last_renewal" in token for token in alive.values())
        gone = bool(known - alive.keys())
        known |= alive.keys()
        time.sleep(0.1)
    assert vault.read() == SECRETS


def test_a_token_that_was_revoked_is_got_anew(settings: SecretSettings, folder: Path, bao: Bao) -> None:
    vault = by_role(settings, folder, *bao.role("revoked"))
    assert vault.read() == SECRETS
    (accessor,) = bao.tokens("revoked")
    bao.root.auth.token.revoke_accessor(accessor)
    assert vault.read() == SECRETS
    assert accessor not in bao.tokens("revoked")


def test_a_token_of_a_file_is_renewed_and_another_one_is_found_there(
    settings: SecretSettings, folder: Path, bao: Bao
) -> None:
    vault = by_token(settings, folder, bao.token(ttl="4s"))
    (file,) = folder.iterdir()
    deadline = time.monotonic() + PATIENCE_S
    while not bao.root.auth.token.lookup(file.read_text().strip())["data"].get("last_renewal"):
        assert time.monotonic() < deadline
        assert vault.read() == SECRETS
        time.sleep(0.1)
    # When it isn't good any more, another one is needed
    bao.root.auth.token.revoke(file.read_text().strip())
    with pytest.raises(SecretsRefused, match="permission denied"):
        vault.read()
    file.write_text(bao.token(renewable=False, ttl="1m"))
    assert vault.read() == SECRETS


def test_refusals_say_what_is_wrong_and_no_secret(settings: SecretSettings, folder: Path, bao: Bao) -> None:
    replace = msgspec.structs.replace
    role_id, secret_id = bao.role("node")
    wrong = secret_id[::-1]
    for vault, reason in [
        (by_role(settings, folder, role_id, wrong), "invalid role or secret ID"),
        (by_token(settings, folder, wrong), "permission denied"),
        (by_token(settings, folder, bao.token(policies=["default"])), "permission denied"),
        (by_token(replace(settings, vault_path="none"), folder, "root-of-the-tests"), "no secret secret/none"),
        (by_token(replace(settings, vault_mount="none"), folder, "root-of-the-tests"), "no secret none/votemill"),
    ]:
        with pytest.raises(SecretsRefused) as error:
            vault.read()
        told = str(error.value)
        assert told.startswith(f"secrets.provider: vault at {bao.address}") and told.endswith(reason)
        assert wrong not in told
    with pytest.raises(SecretsRefused, match="No such file"):
        Vault(replace(settings, vault_role_id=role_id, vault_secret_id_file=str(folder / "none"))).read()


def test_a_sealed_vault_is_away_and_serves_again_without_a_login(
    settings: SecretSettings, folder: Path, bao: Bao
) -> None:
    vault = by_role(settings, folder, *bao.role("node"))
    assert vault.read() == SECRETS
    with bao.sealed(), pytest.raises(SecretsAway, match="away: Vault is sealed"):
        vault.read()
    next(folder.iterdir()).unlink()
    assert vault.read() == SECRETS


@pytest.mark.proves("FR-037")
def test_a_vault_that_hangs_is_given_up(settings: SecretSettings, folder: Path, silent_server: str) -> None:
    vault = by_token(msgspec.structs.replace(settings, vault_address=silent_server, timeout_s=0.3), folder, "t")
    began = time.monotonic()
    with pytest.raises(SecretsAway, match="away: ReadTimeout"):
        vault.read()
    assert time.monotonic() - began < SOON_S


@pytest.fixture(params=["<html>a proxy's page</html>", '{"data": 1}', "[]"])
def no_vault(request: pytest.FixtureRequest) -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Page) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()


def test_what_is_no_vault_is_named(settings: SecretSettings, folder: Path, no_vault: str) -> None:
    vault = by_token(msgspec.structs.replace(settings, vault_address=no_vault), folder, "t")
    with pytest.raises(SecretsRefused, match="doesn't answer as Vault does"):
        vault.read()


@pytest.mark.proves("FR-028", "E5")
def test_a_start_waits_for_a_vault_that_is_away_but_not_for_ever(
    bao: Bao, tmp_path: Path, lead_to: LeadTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VaultStore(bao, tmp_path)
    store.hold(SECRETS)
    lead_to(store.variables)
    monkeypatch.setenv("VOTEMILL_SECRETS__START_WAIT_S", "0.1")
    with bao.sealed(), pytest.raises(SettingsError) as error:
        load()
    # Nothing else is said, although there are no secrets
    (problem,) = error.value.problems
    assert problem.endswith("is away: Vault is sealed (tried for 0.1 s)")
    monkeypatch.setenv("VOTEMILL_SECRETS__START_WAIT_S", "60")
    sealed = bao.sealed()
    sealed.__enter__()
    Timer(0.5, sealed.__exit__, (None, None, None)).start()
    assert load().database.url == SECRETS["database.url"]


@pytest.mark.proves("FR-038")
def test_while_vault_is_sealed_the_secrets_of_before_stay(
    bao: Bao, tmp_path: Path, lead_to: LeadTo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = VaultStore(bao, tmp_path)
    store.hold(SECRETS)
    lead_to(store.variables)
    monkeypatch.setenv("VOTEMILL_SECRETS__REFRESH_S", "0.1")
    with watching(load()) as taken:
        with bao.sealed():
            eventually(lambda: taken.counted.count("secrets.failed") >= 2)
        assert taken.settings.database.url == SECRETS["database.url"]
        eventually(bao.answers)
        store.hold(SECRETS | {"database.url": OTHER, "redis.url": "redis://:pw@redis/0"})
        eventually(lambda: taken.settings.database.url == OTHER)
        eventually(lambda: "secrets.changed" in taken.counted)
    (away, *_), (changed,) = (
        [record for record in caplog.records if record.msg == event]
        for event in ("secrets_unavailable", "secrets_changed")
    )
    assert away.__dict__["error"].endswith("is away: Vault is sealed")
    assert changed.__dict__["keys"] == ["database.url", "redis.url"]
    assert changed.__dict__["after_restart"] == ["redis.url"]


@pytest.mark.proves("FR-018")
def test_a_health_check_asks_no_store(bao: Bao, tmp_path: Path, lead_to: LeadTo) -> None:
    lead_to(VaultStore(bao, tmp_path).variables)
    with bao.sealed():
        assert load(unused=SECTIONS).secrets.provider == "vault"


@pytest.mark.proves("FR-028", "E5")
@pytest.mark.parametrize("module", [("socket_tier",), ("workers", "votes"), ("models.migrations", "status")])
def test_a_process_without_its_vault_exits_with_78_and_names_it(
    bao: Bao, tmp_path: Path, lead_to: LeadTo, monkeypatch: pytest.MonkeyPatch, module: tuple[str, ...]
) -> None:
    address = f"http://{LOOPBACK}:{any_free()}"
    lead_to(VaultStore(bao, tmp_path).variables)
    monkeypatch.setenv("VOTEMILL_SECRETS__VAULT_ADDRESS", address)
    monkeypatch.setenv("VOTEMILL_SECRETS__START_WAIT_S", "0.1")
    done = subprocess.run([sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == EX_CONFIG
    assert f"settings: secrets.provider: vault at {address} is away: ConnectionError" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.proves("FR-028")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VAULT_ADDRESS", "", "secrets.vault_address: missing; vault needs it"),
        ("VAULT_ADDRESS", "vault:8200", "secrets.vault_address: expected https://HOST:PORT or nothing"),
        ("VAULT_ADDRESS", "http://vault:8200", "secrets.vault_address: must be https"),
        ("VAULT_PATH", "", "secrets.vault_path: missing"),
        ("VAULT_ROLE_ID", "", "secrets.vault_role_id: missing"),
        ("VAULT_TOKEN_FILE", "/x", "secrets.vault_token_file: either a token or vault_role_id"),
        ("PROVIDER", "valt", "secrets.provider: expected one of aws, environment, files, vault"),
    ],
)
def test_how_it_is_asked_is_checked_first(
    bao: Bao, tmp_path: Path, lead_to: LeadTo, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    lead_to(VaultStore(bao, tmp_path).variables)
    monkeypatch.setenv(f"VOTEMILL_SECRETS__{name}", value)
    with pytest.raises(SettingsError) as error:
        load()
    (problem,) = error.value.problems
    assert problem.startswith(message)
