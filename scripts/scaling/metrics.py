"""Every metric of the scaler, with what it means."""

from models.runtime import metrics
from models.runtime.metrics import Metrics, Names
from scripts.scaling.actuators import TIERS

COUNTERS = {
    **metrics.COUNTERS,
    "scaled.up": "Times that more instances were asked for.",
    "scaled.down": "Times that one less was asked for.",
    "scaled.refused": "Changes that Nomad, or the supervisor, did not take: the log says why.",
    "held.unknown": "Looks at a tier that changed nothing since something was away; the log says what.",
    "held.busy": "Looks at a tier that changed nothing because a deployment or an earlier change was not over.",
    "secrets.changed": "Times that other secrets were taken over.",
    "secrets.failed": "Times that the store of secrets was away or held what can't be used; those of before stay.",
}
GAUGES = {
    **{f"tiers.{tier}.count": f"Instances of {tier} that there should be, as of the last look." for tier in TIERS},
    **{f"tiers.{tier}.pressure": f"Load of {tier} in relation to its target; unset while unknown." for tier in TIERS},
}


class ScalerMetrics(Metrics):
    """Of one scaler. Gauges stand without its name: only one of several sets them."""

    names = Names(COUNTERS, GAUGES, {})

    def __init__(self, settings: metrics.MetricSettings) -> None:
        super().__init__(settings, "scaler", "scaler", shared=True)
