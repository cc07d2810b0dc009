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
            # Of one call each: nothing is kept open between two reads.
            client = hvac.Client(self._settings.vault_address, token=self._token, timeout=self._settings.timeout_s)
            with closing(client.adapter):
                try:
                    return self._read(client) if self._token else self._read_anew(client)
                except (exceptions.Forbidden, exceptions.InvalidRequest):
                    if not self._token:
                        raise
                    return self._read_anew(client)  # the token has expired, or was revoked

    def _read(self, client: hvac.Client) -> Mapping[str, Any]:
        if time.monotonic() >= self._renew_at:
            self._keep(client.auth.token.renew_self()["auth"])
        answer = client.secrets.kv.v2.read_secret_version(
            self._settings.vault_path, mount_point=self._settings.vault_mount, raise_on_deleted_version=True
        )
        held: Mapping[str, Any] = dict(answer["data"]["data"])
        return held

    def _read_anew(self, client: hvac.Client) -> Mapping[str, Any]:
        self._token = ""
        if self._settings.vault_role_id:
            secret_id = _content(self._settings.vault_secret_id_file)
            auth = client.auth.approle.login(self._settings.vault_role_id, secret_id)["auth"]
        else:
            client.token = _content(self._settings.vault_token_file)
            told = client.auth.token.lookup_self()["data"]
            auth = {"client_token": client.token, "lease_duration": told["ttl"], "renewable": told["renewable"]}
        self._keep(auth)
        client.token = self._token
        return self._read(client)

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
    return ", ".join(error.errors or ()) or type(error).__name__


def _content(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsRefused(f"secrets.provider: {file}: {getattr(error, 'strerror', 'no text')}") from None
