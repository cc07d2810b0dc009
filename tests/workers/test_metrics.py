"""Metrics that many threads add to."""

import threading
import time

import pytest

from workers.metrics import WorkerMetrics


class Slow(int):
    """Adding it takes so long that another thread gets its turn in between."""

    def __radd__(self, other):
        time.sleep(0.0005)
        return int(other) + int(self)


@pytest.fixture
def metrics(settings):
    return WorkerMetrics(settings, "test")


def test_no_count_is_lost_between_threads(metrics):
    def work():
        for _ in range(20):
            metrics.count("votes.stored", Slow(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics._counts["votes.stored"] == 80
