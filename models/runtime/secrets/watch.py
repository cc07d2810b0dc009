"""Takes over rotated secrets while a process runs: what connects anew uses the new ones, what is connected stays."""

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from models.runtime.live_settings import replaced, value_of
from models.runtime.metrics import Metrics
from models.runtime.secrets.providers import SecretsAway, SecretsRefused, open_provider, usable
from models.runtime.settings import SECRETS, SECTIONS, Settings, SettingsError

log = logging.getLogger(__name__)

_LEAST_PAUSE_S = 5.0  # between two questions, however many logins fail

_READ_AT_A_START = ("audit.address_key", "redis.url")


class SecretWatch:
    """Asks the provider every ``secrets.refresh_s`` seconds, and soon after a login has failed, on its own thread.

    While the provider is away or holds what can't be used, the last secrets stay; that is counted and logged.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._current = settings
        self._provider = open_provider(settings.secrets, SECTIONS)
        self._metrics = metrics
        self._watchers: list[Callable[[Settings], None]] = []
        self._run_there: Callable[[Callable[[], None]], Any] = lambda work: work()
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="secrets", daemon=True)

    def watch(self, take_over: Callable[[Settings], None]) -> None:
        """Have ``take_over`` called with all settings whenever a secret is another one; what it raises is logged by its
        name only, and it is called again with the next answer."""
        self._watchers.append(take_over)

    def start(self, run_there: Callable[[Callable[[], None]], Any] | None = None) -> None:
        """``run_there`` brings counts and calls of watchers to a thread of their own, such as an event loop's."""
        if self._current.secrets.provider == "environment":
            return  # it never changes
        if run_there is not None:
            self._run_there = run_there
        self._thread.start()

    def close(self) -> None:
        """The thread ends by itself; a provider that hangs holds nobody up."""
        self._closing.set()
        self._wanted.set()

    def ask_soon(self) -> None:
        """A login has failed, so there may be another secret by now. From any thread."""
        self._wanted.set()

    def _run(self) -> None:
        refresh_s = self._current.secrets.refresh_s
        pause_s = min(_LEAST_PAUSE_S, refresh_s)
        while not self._closing.wait(pause_s):
            # Jittered, so that processes started together don't ask together.
            self._wanted.wait((refresh_s - pause_s) * random.uniform(0.9, 1.1))
            self._wanted.clear()
            if not self._closing.is_set():
                self._round()

    def _round(self) -> None:
        provider = self._current.secrets.provider
        try:
            values, problems = usable(self._provider.read(), SECRETS, SECTIONS)
            if problems:
                raise SettingsError(problems)
            settings = replaced(self._current, values, SECRETS)
        except (SecretsAway, SecretsRefused) as error:
            self._failed("secrets_unavailable", provider=provider, error=str(error))
        except SettingsError as error:
            self._failed("secrets_unusable", provider=provider, problems=error.problems)
        except Exception as error:  # its words may be those of a secret
            self._failed("secrets_failed", provider=provider, error=type(error).__name__)
        else:
            if settings != self._current and not self._closing.is_set():
                self._run_there(partial(self._take_over, settings))

    def _failed(self, event: str, **fields: Any) -> None:
        log.error(event, extra=fields)
        if not self._closing.is_set():
            self._run_there(lambda: self._metrics.count("secrets.failed"))

    def _take_over(self, settings: Settings) -> None:
        keys = [key for key in SECRETS if value_of(settings, key) != value_of(self._current, key)]
        try:
            for take_over in self._watchers:
                take_over(settings)
        except Exception as error:
            self._failed("secrets_not_taken_over", keys=keys, error=type(error).__name__)
            return
        self._current = settings
        waiting = [key for key in keys if key in _READ_AT_A_START]
        log.info("secrets_changed", extra={"keys": keys} | ({"after_restart": waiting} if waiting else {}))
        self._metrics.count("secrets.changed")
