"""What is refused first when this node can't keep up: new polls and joins, and votes last."""

from collections.abc import Callable

from models.runtime.settings import ShedSettings
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import NodeBusy, ReadOnly


class Shedding:
    """Watches how late the event loop runs and how full the vote buffer is.

    ``buffer_share()`` is between 0 (empty) and 1 (full).
    """

    def __init__(self, settings: ShedSettings, buffer_share: Callable[[], float], metrics: NodeMetrics) -> None:
        self.settings = settings  # replaced when an operator changes them
        self._buffer_share = buffer_share
        self._metrics = metrics
        self.knows_time = True  # without it a vote would be decided, or a poll ended, by a wrong clock
        self.lag_s = 0.0  # of the event loop, as it is taken to last
        self._last_probe_s = 0.0

    def loop_was_late(self, lag_s: float) -> None:
        """One probe of the event loop. A single hiccup counts for nothing, a lasting lag counts within a few probes.

        A node that was stopped for ten seconds and runs again is one very late probe: it has nothing to shed.
        """
        lasting_s = min(lag_s, self._last_probe_s)
        self._last_probe_s = lag_s
        self.lag_s = 0.7 * self.lag_s + 0.3 * lasting_s
        self._metrics.gauge("loop.lag_ms", self.lag_s * 1000)

    def change(self) -> None:
        """Anything that changes what is stored.

        :raises NodeBusy: this node has only just started and does not know the time
        :raises ReadOnly:
        """
        if not self.knows_time:
            raise NodeBusy
        if self.settings.read_only:
            self._metrics.count("shed.read_only")
            raise ReadOnly

    def newcomer(self) -> None:
        """A new poll or join.

        :raises NodeBusy: what is already here needs this node
        :raises ReadOnly:
        """
        self.change()
        if self.lag_s > self.settings.newcomers_lag_s or self._buffer_share() > self.settings.newcomers_buffer_share:
            self._metrics.count("shed.newcomers")
            raise NodeBusy(retry_after_s=2)

    def vote(self) -> None:
        """:raises NodeBusy: the event loop is so late that an ack would take too long

        :raises ReadOnly:
        """
        self.change()
        if self.lag_s > self.settings.votes_lag_s:
            self._metrics.count("shed.votes")
            raise NodeBusy()
