from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from moto.server import ThreadedMotoServer

from tests.models.runtime.secrets.stores import Bao, Folder, SecretsManagerStore, Store, VaultStore

# What production needs beside secrets.
NO_SECRETS = {
    "VOTEMILL_ENV": "production",
    "VOTEMILL_SECURITY__ORIGINS": '@json ["https://polls.example"]',
    "VOTEMILL_DATABASE__PLAIN_ALLOWED": "true",
    "VOTEMILL_BROKER__PLAIN_ALLOWED": "true",
    "VOTEMILL_REDIS__PLAIN_ALLOWED": "true",
}
SECRETS = {
    "database.url": "postgresql://votemill:database-of-this-test@database/votemill",  # pragma: allowlist secret
    "broker.url": "amqp://votemill:broker-of-this-test@broker/%2F",  # pragma: allowlist secret
    "security.signing_keys": '{"keys": [{"key": "a-signing-key-of-this-test-and-no-other"}]}',
    "audit.address_key": "an-address-key-of-this-test-and-no-other",
}


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    server = Bao()
    try:
        server.start(tmp_path_factory.mktemp("bao") / "log")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def aws() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["files", "vault", "aws"])
def store(request: pytest.FixtureRequest, tmp_path: Path, lead_to: LeadTo) -> Store:
    """Each store in turn, holding what production needs; this process's environment leads to it."""
    store = made(request, tmp_path)
    store.hold(SECRETS)
    lead_to(store.variables)
    return store


def made(request: pytest.FixtureRequest, folder: Path) -> Store:
    if request.param == "vault":
        return VaultStore(request.getfixturevalue("bao"), folder)
    if request.param == "aws":
        return SecretsManagerStore(request.getfixturevalue("aws"), f"votemill-{uuid4().hex}")
    secrets = folder / "secrets"
    secrets.mkdir()
    return Folder(secrets)


LeadTo = Callable[[Mapping[str, str]], None]


@pytest.fixture
def lead_to(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> LeadTo:
    """Make this the environment of a production without secrets, with these variables beside it."""

    def lead(variables: Mapping[str, str]) -> None:
        for name, value in (NO_SECRETS | dict(variables)).items():
            monkeypatch.setenv(name, value)

    return lead


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
