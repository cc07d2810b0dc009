"""Background rounds go on, whatever one of them raises."""

from __future__ import annotations

import logging
import threading

import pytest

from models.runtime.settings import load
from workers.metrics import WorkerMetrics
from workers.periodic import Periodic


def test_a_round_that_fails_unexpectedly_is_told_and_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    rounds, again = [], threading.Event()

    def fails() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            again.set()
        raise AttributeError("a bug of ours")

    periodic = Periodic("rounds of a test", 0.01, fails, WorkerMetrics(load(), "test"))
    with caplog.at_level(logging.ERROR):
        periodic.start()
        assert again.wait(30), "the first failure was the last round"
        periodic.close()
    told = [record for record in caplog.records if record.message == "periodic_failed"]
    assert told and told[0].__dict__["round"] == "rounds of a test"
