"""HashiCorp Vault, or OpenBao: one secret of a KV engine, version 2."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hvac
import requests
from hvac import exceptions

from models.runtime.secrets.providers import SecretsAway, SecretsRefused

if TYPE_CHECKING:
    from models.runtime.settings import SecretSettings

# Expired or revoked; not to be renewed; past the longest time that it may live, which is an error 500.
_TOKEN_IS_OVER = (exceptions.Forbidden, exceptions.InvalidRequest, exceptions.InternalServerError)
_REFUSALS = (exceptions.InvalidRequest, exceptions.Unauthorized, exceptions.Forbidden, exceptions.InvalidPath)


class Vault:
    """Logs in with an AppRole or the token of a file, and keeps its token alive: renewed when half of its time is over,
    got anew (the file read again) when Vault doesn't take it any more.
    """

    def __init__(self, settings: SecretSettings) -> None:
        self._settings = settings
        self._token = ""
        self._renew_at = math.inf

    def read(self) -> Mapping[str, Any]:
        with self._plain_errors():
            # Of a few calls: nothing is kept open between two reads.
            client = hvac.Client(self._settings.vault_address, token=self._token, timeout=self._settings.timeout_s)
            with closing(client.adapter):
                if self._token:
                    try:
                        if time.monotonic() >= self._renew_at:
                            self._keep(client.auth.token.renew_self()["auth"])
                        return self._read(client)
                    except _TOKEN_IS_OVER:
                        client.token = ""
                self._log_in(client)
                return self._read(client)

    def _read(self, client: hvac.Client) -> Mapping[str, Any]:
        answer = client.secrets.kv.v2.read_secret_version(
            self._settings.vault_path, mount_point=self._settings.vault_mount, raise_on_deleted_version=True
        )
        held: Mapping[str, Any] = dict(answer["data"]["data"])
        return held

    def _log_in(self, client: hvac.Client) -> None:
        if self._settings.vault_role_id:
            secret_id = _content(self._settings.vault_secret_id_file)
            auth = client.auth.approle.login(self._settings.vault_role_id, secret_id)["auth"]
        else:
            client.token = _content(self._settings.vault_token_file)
            told = client.auth.token.lookup_self()["data"]
            auth = {"client_token": client.token, "lease_duration": told["ttl"], "renewable": told["renewable"]}
        client.token = auth["client_token"]
        self._keep(auth)

    def _keep(self, auth: Mapping[str, Any]) -> None:
        self._token = auth["client_token"]
        lives_s = auth["lease_duration"]  # 0: for ever
        self._renew_at = time.monotonic() + lives_s / 2 if auth["renewable"] and lives_s else math.inf

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """:raises SecretsAway, SecretsRefused:"""
        settings = self._settings
        who = f"secrets.provider: vault at {settings.vault_address}"
        try:
            yield
        except exceptions.InvalidPath:
            raise SecretsRefused(f"{who}: no secret {settings.vault_mount}/{settings.vault_path}") from None
        except _REFUSALS as error:
            raise SecretsRefused(f"{who} refuses: {_reason(error)}") from None
        except exceptions.VaultError as error:
            raise SecretsAway(f"{who} is away: {_reason(error)}") from None
        except requests.RequestException as error:
            raise SecretsAway(f"{who} is away: {type(error).__name__}") from None
        except (KeyError, TypeError, ValueError):
            raise SecretsRefused(f"{who} doesn't answer as Vault does") from None


def _reason(error: exceptions.VaultError) -> str:
    """Vault's own words, which repeat nothing of what it was sent."""
    return " ".join(", ".join(error.errors or ()).split()) or type(error).__name__


def _content(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsRefused(f"secrets.provider: {file}: {getattr(error, 'strerror', 'no text')}") from None
