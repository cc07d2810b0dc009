"""A stack whose servers take TLS alone and give each role an account of its own; tests may change its certificates."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import msgspec
import pytest

from models.runtime.settings import Settings, load
from scripts.faults.stack import RunningStack
from scripts.stack.program import launch_file
from tests.own_stack import own_stack

NODE, VOTES_WORKER, HOST_WORKER = "node-1", "worker-1", "host-worker-1"


class SecuredStack(RunningStack):
    def given_to(self, program: str) -> dict[str, str]:
        """The variables that scripts/up has started a process with."""
        variables: dict[str, str] = json.loads(launch_file(self.folder, program).read_text())["env"]
        return variables

    def settings_of(self, program: str) -> Settings:
        """What a process makes of them."""
        with mock.patch.dict(os.environ, self.given_to(program), clear=True):
            return load()

    def settings_as(self, account: str) -> Settings:
        """Those of a process that logs in as ``account`` everywhere, whether it is known there or not."""
        settings = self.settings_of(HOST_WORKER)
        return msgspec.structs.replace(
            settings,
            **{
                section: msgspec.structs.replace(known, url=self._as(account, section, known.url))
                for section in ("database", "broker", "redis")
                if (known := getattr(settings, section))
            },
        )

    def _as(self, account: str, section: str, url: str) -> str:
        parts = urlsplit(url)
        login = f"{account}:{self.folder.secret(f'{section}-{account}')}"
        return parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture(scope="package")
def stack(run_dir: Path) -> Iterator[SecuredStack]:
    with own_stack(run_dir, "secured", "--tls", "--accounts") as folder:
        yield SecuredStack(folder)
