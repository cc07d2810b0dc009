import os

import pytest


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables of the stack that the tests run on."""
    for name in list(os.environ):
        if name.startswith("VOTEMILL_"):
            monkeypatch.delenv(name)
