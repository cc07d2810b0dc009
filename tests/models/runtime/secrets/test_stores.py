"""Whichever store secrets come from: what it holds is used, a start without it fails, and nothing of it is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from models.runtime.metrics import Metrics, Names
from models.runtime.secrets.watch import SecretWatch
from models.runtime.settings import Settings, SettingsError, load
from tests.models.runtime.secrets.conftest import SECRETS
from tests.models.runtime.secrets.stores import Store

OTHER = "postgresql://votemill:another-one@database/votemill"  # pragma: allowlist secret


def problems() -> list[str]:
    with pytest.raises(SettingsError) as error:
        load()
    return error.value.problems


class Taken(Metrics):
    """What a watch has told and counted."""

    names = Names({}, {}, {})

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.metrics, "tests", "test")
        self.settings = settings
        self.counted: list[str] = []
        self.watch = SecretWatch(settings, self)
        self.watch.watch(self._take)

    def count(self, name: str, by: int = 1) -> None:
        self.counted.append(name)

    def _take(self, settings: Settings) -> None:
        self.settings = settings


@contextmanager
def watching(settings: Settings) -> Iterator[Taken]:
    taken = Taken(settings)
    taken.watch.start()
    try:
        yield taken
    finally:
        taken.watch.close()


def eventually(condition: Callable[[], Any], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.proves("FR-024", "US4.3")
def test_what_the_store_holds_is_used(store: Store) -> None:
    signs_from = datetime(2026, 1, 1, tzinfo=UTC)
    keys = [{"key": "k" * 40, "signs_from": "2026-01-01T00:00:00Z"}, {"key": "l" * 40}]
    store.hold(SECRETS | {"security.signing_keys": {"keys": keys}, "redis.url": "redis://:pw@redis/0", "x": "others'"})
    settings = load()
    assert settings.environment == "production"
    assert (settings.database.url, settings.redis.url) == (SECRETS["database.url"], "redis://:pw@redis/0")
    assert [(key.key[0], key.signs_from >= signs_from) for key in settings.security.listed_keys] == [
        ("k", True),
        ("l", False),
    ]
    store.hold(SECRETS | {"security.signing_keys": f'["{"m" * 40}"]'})
    assert load().security.key_ring().usable() == ["m" * 40]


@pytest.mark.proves("FR-024", "FR-028", "E5")
@pytest.mark.parametrize("name", SECRETS)
def test_production_starts_without_none_of_its_secrets(store: Store, name: str) -> None:
    default = {
        "database.url": "postgresql://votemill@127.0.0.1:5432/votemill",
        "broker.url": "amqp://guest:guest@127.0.0.1:5672/%2F",  # pragma: allowlist secret
        "security.signing_keys": '["development-signing-key-of-no-value-0001"]',
        "audit.address_key": "development-address-key-of-no-value-01",
    }[name]
    store.hold({key: value for key, value in SECRETS.items() if key != name})
    (missing,) = problems()
    store.hold(SECRETS | {name: ""})
    (empty,) = problems()
    store.hold(SECRETS | {name: default})
    (of_no_value,) = problems()
    assert missing == empty and missing.startswith(f"{name}: ") and missing.endswith(" holds none")
    assert of_no_value.startswith(f"{name}: ") and of_no_value.endswith("refused in production")


@pytest.mark.proves("FR-024", "FR-028", "FR-039")
def test_what_cant_be_used_is_named_and_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.hold(
        {
            "database.url": "postgresql://votemill:hunter2#x@database/votemill",
            "broker.url": "hunter2",
            "redis.url": "redis://:100%hunter2@redis/0",
            "security.signing_keys": "[hunter2",
            "audit.address_key": "hunter2",
            "audit.adress_key": "hunter2",
        }
    )
    found = problems()
    assert {problem.partition(":")[0] for problem in found} == {
        "audit.address_key",
        "audit.adress_key",
        "broker.url",
        "database.url",
        "redis.url",
        "security.signing_keys",
    }
    assert "hunter2" not in "".join(found)
    assert "audit.adress_key: unknown secret; did you mean audit.address_key?" in found
    # And one that stands in two places, of which one would be forgotten in a rotation
    store.hold(SECRETS)
    monkeypatch.setenv("VOTEMILL_DATABASE__URL", OTHER)
    (twice,) = problems()
    assert twice.startswith("database.url: given twice, by VOTEMILL_DATABASE__URL and by ")


@pytest.mark.proves("FR-024")
def test_a_new_secret_is_taken_over_as_a_whole_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("VOTEMILL_SECRETS__REFRESH_S", "0.1")
    with watching(load()) as taken:
        # When one of two new ones can't be used, both stay as they are
        for unusable in (
            {"broker.url": "amqp://guest:guest@broker/%2F"},  # pragma: allowlist secret
            {"audit.address_key": "hunter2"},
            {"database.ulr": "hunter2"},
        ):
            before = len(taken.counted)
            store.hold(SECRETS | {"database.url": OTHER} | unusable)
            eventually(lambda before=before: len(taken.counted) >= before + 2)
        assert set(taken.counted) == {"secrets.failed"}
        assert taken.settings.database.url == SECRETS["database.url"]
        # And when it can
        store.hold(SECRETS | {"database.url": OTHER, "security.signing_keys": f'["{"n" * 40}"]'})
        eventually(lambda: "secrets.changed" in taken.counted)
    assert (taken.settings.database.url, taken.settings.broker.url) == (OTHER, SECRETS["broker.url"])
    assert [key.key for key in taken.settings.security.listed_keys] == ["n" * 40]
    told = "".join(str(record.__dict__) for record in caplog.records)
    assert "secrets_unusable" in told and "secrets_changed" in told
    for secret in ("another-one", "of-this-test", "n" * 40, "guest:guest", "hunter2"):
        assert secret not in told


@pytest.mark.proves("FR-024")
def test_whoever_could_not_log_in_needs_not_wait_for_the_next_round(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOTEMILL_SECRETS__REFRESH_S", "600")
    monkeypatch.setattr("models.runtime.secrets.watch._LEAST_PAUSE_S", 0.1)
    with watching(load()) as taken:
        store.hold(SECRETS | {"database.url": OTHER})
        taken.watch.ask_soon()
        eventually(lambda: taken.settings.database.url == OTHER)


@pytest.mark.proves("FR-024")
def test_who_cant_take_a_secret_over_is_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOTEMILL_SECRETS__REFRESH_S", "0.1")
    asked = threading.Semaphore(0)

    def cannot(settings: Settings) -> None:
        asked.release()
        raise ValueError(settings.database.url)

    taken = Taken(load())
    taken.watch.watch(cannot)
    taken.watch.start()
    try:
        store.hold(SECRETS | {"database.url": OTHER})
        assert all(asked.acquire(timeout=20) for _ in range(2))
    finally:
        taken.watch.close()
    assert "secrets.changed" not in taken.counted
