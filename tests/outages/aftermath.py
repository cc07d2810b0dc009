"""What must be true after every outage, whatever it was."""

from __future__ import annotations

from collections.abc import Callable

from scripts.faults import toll
from scripts.faults.load import Load, describe_findings
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from tests import outage_table

LIVE_AGAIN_WITHIN_S = 5.0
_SETTLE_S = 20.0
_HEALTHY_WITHIN_S = 15.0
_IDLE_SHARE = 0.5  # of a core; a process that spins takes a whole one
_IDLE_WITHIN_ROUNDS = 6
_LOOK_S = 1.0
_GROWTH_MB = 300.0


class Aftermath:
    """Remembers what our processes used before, and demands clean accounts, live results and rest after."""

    def __init__(self, stack: RunningStack, fault: str, record_property: Callable[[str, object], None]) -> None:
        self._stack = stack
        self._fault = fault
        self._record = record_property
        self._memory_mb = toll.memory_mb(stack.ours())

    def demand(self, load: Load, recovered_at: float) -> None:
        """Everything that the promises say about the time after an outage."""
        live = load.hears_results(recovered_at, LIVE_AGAIN_WITHIN_S)
        assert live, f"no new results in every room within {LIVE_AGAIN_WITHIN_S} s of the recovery"
        result = load.settle(_SETTLE_S)
        self._record(*outage_table.row(self._fault, result))
        assert result["clean"], describe_findings(result)
        assert result["answers_complete"], "some votes never got an answer"
        assert result["updates"]["went_back"] == 0, "a browser saw an older version after a newer one"
        settled_s = result["account"]["settled_s"]
        assert settled_s <= LIVE_AGAIN_WITHIN_S, f"the totals were right after {settled_s} s"
        assert load.until(self._all_healthy, _HEALTHY_WITHIN_S), f"health: {self._health()}"
        self._demand_rest(load)

    def _demand_rest(self, load: Load) -> None:
        busy: dict[str, float] = {}
        for _ in range(_IDLE_WITHIN_ROUNDS):
            busy = load.during(lambda: toll.busy_share(self._stack.ours(), _LOOK_S))
            if max(busy.values()) < _IDLE_SHARE:
                break
        assert max(busy.values()) < _IDLE_SHARE, f"still busy without any load: {busy}"
        grown = {name: mb - self._memory_mb[name] for name, mb in toll.memory_mb(self._stack.ours()).items()}
        assert max(grown.values()) < _GROWTH_MB, f"memory grew, in MB: {grown}"

    def _all_healthy(self) -> bool:
        return all(status == "healthy" for status in self._health().values())

    def _health(self) -> dict[str, str]:
        told = {}
        for node in self._stack.nodes:
            try:
                told[node.url] = str(rest.call(node, "GET", "/api/health")["status"])
            except rest.RestError as error:
                told[node.url] = str(error)
        return told
