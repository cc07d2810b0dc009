"""Closes polls whose voting period has an end."""

from uuid import UUID, uuid5

from models import poll_store
from models.runtime import correlation
from models.state_log import TIMER
from models.wire.commands import ChangeState
from models.wire.polls import PollState
from workers.actors.host import HostActors
from workers.database_gate import DatabaseGate
from workers.finals import NOBODY
from workers.metrics import WorkerMetrics

_CLOSES = UUID("5c1b5d0e-3f0a-4c39-9d0b-0d8f5a2f7c11")


class TimedCloses:
    """Commits the closes that are due, each at the time at which its period was to end.

    The nodes stop taking votes at that time by themselves; a vote received later is refused however late this runs.
    Every host worker looks: it costs one indexed query, and a close has one id, so that it is made once.
    """

    EVERY_S = 0.5

    def __init__(self, gate: DatabaseGate, host: HostActors, metrics: WorkerMetrics) -> None:
        self._gate = gate
        self._host = host
        self._metrics = metrics

    def round(self) -> None:
        """:raises DatabaseUnavailable:
        :raises Unconfirmed: a close is committed and perhaps not announced; ``Finals`` reminds the nodes of it
        """
        for poll_id, opened_at_us, closes_at_us in self._gate.call(poll_store.due_closes):
            command_id = uuid5(_CLOSES, f"{poll_id} {opened_at_us}")
            trace = correlation.begin()
            close = ChangeState(command_id, NOBODY, poll_id, PollState.CLOSED, closes_at_us, TIMER, trace)
            if self._host.change_state(close):
                self._metrics.count("polls.closed_by_time")
