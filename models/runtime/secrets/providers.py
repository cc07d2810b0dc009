"""What every provider of secrets promises, and the two that need nobody else: the environment and folders of files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from models.runtime.expectations import nearest

if TYPE_CHECKING:
    from models.runtime.settings import SecretSettings

log = logging.getLogger(__name__)

_NAME = re.compile(r"([a-z]+)\.[a-z_]+")
_PAUSE_S = 1.0


class SecretsAway(Exception):
    """The provider can't answer now; the same call may succeed later."""


class SecretsRefused(Exception):
    """The provider has answered, and not with secrets; somebody has to change something."""


class Provider(Protocol):
    """One store of secrets. Used by one thread at a time."""

    def read(self) -> Mapping[str, Any]:
        """Everything that it holds, by name; ours are named like the settings, ``database.url``.

        Ends within a few times ``timeout_s`` seconds. Errors tell no secret.

        :raises SecretsAway, SecretsRefused:
        """


class Environment:
    """VOTEMILL_... variables: whoever reads the settings reads them, and they don't change while a process runs."""

    def read(self) -> Mapping[str, Any]:
        return {}


class Files:
    """A folder with a file for each secret, as Docker, Kubernetes and Nomad put it there."""

    def __init__(self, settings: SecretSettings, sections: Collection[str]) -> None:
        self._folder = Path(settings.folder)
        self._sections = sections

    def read(self) -> Mapping[str, Any]:
        try:
            return {file.name: file.read_text() for file in self._folder.iterdir() if self._is_ours(file.name)}
        except OSError as error:
            raise SecretsRefused(f"secrets.folder: {error.filename}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SecretsRefused(f"secrets.folder: {self._folder}: a file is no text") from None

    def _is_ours(self, name: str) -> bool:
        found = _NAME.fullmatch(name)
        return found is not None and found[1] in self._sections


def gaps(settings: SecretSettings, *, deployed: bool) -> list[str]:
    """Why the provider can't be asked, or mustn't be; one line for each."""
    problems = []
    match settings.provider:
        case "vault":
            problems += _missing(settings, "vault_address", "vault_path")
            if not settings.vault_token_file:
                problems += _missing(settings, "vault_role_id", "vault_secret_id_file")
            elif settings.vault_role_id or settings.vault_secret_id_file:
                problems.append("secrets.vault_token_file: either a token or vault_role_id, not both")
            if deployed and _in_the_clear(settings.vault_address):
                problems.append("secrets.vault_address: must be https, but for this machine's own")
        case "aws":
            problems += _missing(settings, "aws_secret")
    return problems


def _missing(settings: SecretSettings, *keys: str) -> list[str]:
    return [f"secrets.{key}: missing; {settings.provider} needs it" for key in keys if not getattr(settings, key)]


def _in_the_clear(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")


def open_provider(settings: SecretSettings, sections: Collection[str]) -> Provider:
    """The one that ``secrets.provider`` names; it connects when it is first asked. ``sections``: of the settings."""
    match settings.provider:
        case "files":
            return Files(settings, sections)
        case "vault":
            from models.runtime.secrets.vault import Vault

            return Vault(settings)
        case "aws":
            from models.runtime.secrets.secrets_manager import SecretsManager

            return SecretsManager(settings)
    return Environment()


def read_at_start(provider: Provider, wait_s: float) -> Mapping[str, Any]:
    """``provider.read()``, tried again while it is away, for ``wait_s`` seconds.

    :raises SecretsRefused: also when it is still away
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return provider.read()
        except SecretsAway as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise SecretsRefused(f"{error} (tried for {wait_s:g} s)") from None
            # No log is set up yet at a start: Python writes this line to stderr.
            log.warning("settings: %s; tried again for %.0f s", error, left_s)
            time.sleep(min(_PAUSE_S, left_s))


def usable(
    held: Mapping[str, Any], secrets: Collection[str], sections: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """What a provider holds, as settings take it, and a line for each that looks like one of ours and isn't.

    An empty one counts as none. Signing keys come as the JSON that scripts/keys writes, or as a list.
    """
    values, problems = {}, []
    for name, value in held.items():
        if name not in secrets:
            if name.partition(".")[0] in sections:
                problems.append(f"{name}: unknown secret{nearest(name, secrets)}")
            continue
        value = value.strip() if isinstance(value, str) else value
        if value in ("", None):
            continue
        if name == "security.signing_keys":
            try:
                value = _keys(value)
            except msgspec.DecodeError:
                problems.append(f"{name}: expected JSON, as scripts/keys writes it")
                continue
        values[name] = value
    return values, problems


def _keys(value: Any) -> Any:
    value = msgspec.json.decode(value) if isinstance(value, str) else value
    return value["keys"] if isinstance(value, dict) and value.keys() == {"keys"} else value
