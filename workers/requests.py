"""Commands whose sender waits for an answer: too late, or the database away, means an answer at once."""

import logging
from collections.abc import Callable
from uuid import UUID

import redis

from models.database import DatabaseUnavailable
from models.runtime.clock import clock, now_us
from workers.errors import NeverValid
from workers.metrics import WorkerMetrics
from workers.notices import Notices

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 2
# Nodes of earlier versions tell the deadline by their wall clock; an answer that comes too late harms nobody.
_CLOCK_SLACK_US = 5_000_000
_BUSY = "The service is busy, please try again"
_FAILED = "Something went wrong on our side, please try again"


class Requests:
    """Runs requests so that each ends with exactly one answer, or none when nobody waits any more."""

    def __init__(self, notices: Notices, metrics: WorkerMetrics) -> None:
        self._notices = notices
        self._metrics = metrics

    def serve(self, node_id: UUID, request_id: UUID, deadline_us: int, work: Callable[[], None]) -> None:
        """Run ``work``, which answers by itself when it succeeds; answer in its place when it doesn't.

        :raises NeverValid: it failed for a reason of its own; the sender has been told
        """
        if clock.error_us() is not None and now_us() > deadline_us + _CLOCK_SLACK_US:
            self._metrics.count("requests.expired")
            return
        try:
            work()
        except DatabaseUnavailable:
            self._refuse(node_id, request_id, "database_unavailable")
        except redis.RedisError:
            self._refuse(node_id, request_id, "cache_unavailable")
        except Exception as error:
            log.exception("request_failed")
            self._notices.refuse(node_id, request_id, "internal", _FAILED, _RETRY_AFTER_S)
            raise NeverValid("failed", repr(error)) from error

    def _refuse(self, node_id: UUID, request_id: UUID, code: str) -> None:
        self._metrics.count("requests.refused")
        self._notices.refuse(node_id, request_id, code, _BUSY, _RETRY_AFTER_S)
