"""AWS Secrets Manager: one secret that is a JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from models.runtime.secrets.providers import SecretsAway, SecretsRefused

if TYPE_CHECKING:
    from models.runtime.settings import SecretSettings

_TRIES = 2
_TOO_MANY = ("ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException")
# At level DEBUG these write requests and answers as they are, whatever an operator sets at runtime.
_TALKATIVE = ("botocore.auth", "botocore.endpoint", "botocore.parsers")


class SecretsManager:
    """Region, credentials and, for another service with this interface, the address (AWS_ENDPOINT_URL_SECRETS_MANAGER)
    are found as boto3 documents it.
    """

    def __init__(self, settings: SecretSettings) -> None:
        self._settings = settings
        self._client: Any = None
        for name in _TALKATIVE:
            logging.getLogger(name).disabled = True

    def read(self) -> Mapping[str, Any]:
        who = f"secrets.provider: aws secret {self._settings.aws_secret}"
        try:
            text = self._opened().get_secret_value(SecretId=self._settings.aws_secret)["SecretString"]
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500 or code in _TOO_MANY:
                raise SecretsAway(f"{who} is away: {code}") from None
            raise SecretsRefused(f"{who} is refused: {code}") from None
        except NoRegionError as error:
            raise SecretsRefused(f"{who}: {error}") from None
        except BotoCoreError as error:
            # Also without credentials: those of a machine or a task come over the network, too.
            raise SecretsAway(f"{who} is away: {error}") from None
        except KeyError:
            raise SecretsRefused(f"{who}: it is no text") from None
        try:
            held: Mapping[str, Any] = dict(json.loads(text))
        except (TypeError, ValueError):
            raise SecretsRefused(f"{who}: it is no JSON object") from None
        return held

    def _opened(self) -> Any:
        """Made once, since that takes a tenth of a second."""
        if self._client is None:
            wait_s = self._settings.timeout_s
            config = Config(connect_timeout=wait_s, read_timeout=wait_s, retries={"total_max_attempts": _TRIES})
            self._client = boto3.client("secretsmanager", config=config)
        return self._client
