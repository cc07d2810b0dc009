"""Every metric of the synthetic voter, with what it means. Names must stand here before they are used."""

from typing import ClassVar

from models.runtime import metrics
from models.runtime.metrics import Metrics, Names
from models.runtime.settings import Settings
from scripts.probing.rounds import STEPS

COUNTERS = {
    **metrics.COUNTERS,
    "ok": "Rounds in which everything worked: votes acked, counted and shown.",
    "limited": "Rounds that the rate limits refused: nothing is known of the service then; probe less often.",
    "unwritten": "Rounds that are missing in the record, since its disk is full or gone.",
    **{f"failed.{step}": f"Rounds that failed at this step: {what}." for step, what in STEPS.items()},
}
TIMINGS = {f"{step}_ms": f"A step of a round: {what}." for step, what in STEPS.items()}


class ProbeMetrics(Metrics):
    """This process's metrics."""

    names: ClassVar[Names] = Names(COUNTERS, {}, TIMINGS)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.metrics, "probe", settings.probe.name)
