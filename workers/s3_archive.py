"""An S3-compatible store as an archive."""

import tempfile
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from workers.archives import ArchiveUnavailable

_CONNECT_S = 5
_READ_S = 30
_TRIES = 3
_IN_MEMORY_BYTES = 8_000_000  # a larger file is spooled to disk before it is sent


class S3Archive:
    """Objects under ``s3://BUCKET/PREFIX``; the credentials are found as boto3 documents it."""

    def __init__(self, url: str, endpoint: str) -> None:
        parts = urlsplit(url)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._endpoint = endpoint or None

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> str:
        key = f"{self._prefix}/{name}".lstrip("/")
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            write(file)
            file.seek(0)
            try:
                # An object appears when it is complete, also one that is sent in parts.
                self._client().upload_fileobj(file, self._bucket, key)
            except (BotoCoreError, ClientError, Boto3Error) as error:
                raise ArchiveUnavailable(f"{self._bucket}: {error}") from error
        return f"s3://{self._bucket}/{key}"

    def _client(self) -> Any:
        config = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": _TRIES})
        return boto3.client("s3", endpoint_url=self._endpoint, config=config)
