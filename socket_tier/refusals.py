"""What a person is told when something is not done: two families, *never valid* and *come back later*.

Each carries the words that the browser shows (``message``, fixed by the wire contract where it says so), a machine
readable ``code`` and the HTTP status that the REST twin answers with.
"""

from typing import Any


class Refused(Exception):
    """The request is not carried out. Nothing has changed.

    ``timed_out``: because something was waited for in vain.
    """

    status = 400
    timed_out = False

    def __init__(self, message: str, code: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        if status is not None:
            self.status = status

    @property
    def kind(self) -> str:
        """Whose fault it is, for metrics: ``client``, ``server`` or ``timeout``."""
        if self.timed_out:
            return "timeout"
        return "server" if self.status >= 500 else "client"

    def body(self, correlation_id: str) -> dict[str, Any]:
        """The answer, as an ack or as an HTTP body."""
        return {"success": False, "error": self.message, "code": self.code, "correlationId": correlation_id}


class Invalid(Refused):
    """Never valid: the same request will be refused again."""


class ComeBackLater(Refused):
    """Overload or an outage: safe to send again after ``retry_after_s`` seconds."""

    status = 503

    def __init__(self, message: str, code: str, retry_after_s: float = 1.0, *, status: int | None = None) -> None:
        super().__init__(message, code, status=status)
        self.retry_after_s = retry_after_s

    def body(self, correlation_id: str) -> dict[str, Any]:
        return {**super().body(correlation_id), "retryAfter": self.retry_after_s}


class NodeBusy(ComeBackLater):
    """This node holds as much as it may hold."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("The service is busy, please try again", "overloaded", retry_after_s)


class ReadOnly(ComeBackLater):
    """An operator lets nothing be changed for a while (shed.read_only)."""

    def __init__(self) -> None:
        super().__init__("Nothing can be changed at the moment, please try again soon", "read_only", 10)


class BrokerUnavailable(ComeBackLater):
    """RabbitMQ is away, full, blocked or did not confirm in time.

    ``unclear`` is true when the message may have been stored all the same.
    """

    def __init__(self, retry_after_s: float = 1.0, *, unclear: bool = False) -> None:
        super().__init__("The service is busy, please try again", "broker_unavailable", retry_after_s)
        self.unclear = unclear


class CacheUnavailable(ComeBackLater):
    """Redis is away, and this can't be decided without it."""

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__("The service is busy, please try again", "cache_unavailable", retry_after_s)


class NotDecided(ComeBackLater):
    """The nickname, or the last place, may become free: somebody else's join is under way, or was cut off."""

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__("The service is busy, please try again", "not_decided", retry_after_s)


class WorkersUnavailable(ComeBackLater):
    """No worker answered in time, or none can reach the database."""

    def __init__(self, retry_after_s: float = 2.0) -> None:
        super().__init__("The service is busy, please try again", "workers_unavailable", retry_after_s)


class RateLimited(ComeBackLater):
    """Too much from one session or address, or for one room: over ``limit``, which is ``most`` in ``window_s`` seconds.

    ``most`` is 0 for a session's own limits, which HTTP knows nothing of.
    """

    def __init__(self, retry_after_s: float, limit: str, most: int = 0, window_s: int = 0) -> None:
        super().__init__("Too many requests, please slow down", "rate_limited", max(0.1, round(retry_after_s, 1)))
        self.status = 429
        self.limit = limit
        self.most = most
        self.window_s = window_s


def poll_not_found() -> Invalid:
    return Invalid("Poll not found", "poll_not_found", status=404)


def voting_not_open() -> Invalid:
    return Invalid("Voting is not open", "voting_not_open", status=409)


def only_host() -> Invalid:
    return Invalid("Only host can change poll state", "not_host", status=403)


def unexpected() -> Refused:
    """For people, when something broke: the log has the rest under the correlation id."""
    return Refused("Something went wrong on our side, please try again", "internal_error", status=500)
