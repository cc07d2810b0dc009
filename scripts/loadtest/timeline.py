"""A run second by second, and its picture."""

import argparse
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.loadtest.crowd import Outcome
from scripts.loadtest.report import percentile

FORMATS = (".svg", ".png")
_LEAST_MS = 0.5  # where the logarithmic axis begins


@dataclass(frozen=True)
class Second:
    """The votes answered within one second from the start of the voting; latencies are 0 where none was acked."""

    at_s: int
    acked: int
    refused: int
    p50_ms: float
    p95_ms: float
    max_ms: float


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--draw FILE``: where the picture goes, None without it."""

    def picture(name: str) -> Path:
        path = Path(name)
        if path.suffix not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name} does not end with {' or '.join(FORMATS)}")
        return path

    parser.add_argument(
        "--draw", metavar="FILE", type=picture, help="throughput and ack latency over time, as .svg or .png"
    )


def seconds_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """All processes' answers by the second, without gaps, for JSON. A look takes place every 0.2 s: an answer may
    stand in the second behind its own."""
    begins = [outcome.looks[0].at for outcome in outcomes if outcome.looks]
    if not begins:
        return []
    began = min(begins)
    latencies: dict[int, array[float]] = {}
    refused: dict[int, int] = {}
    for outcome in outcomes:
        for before, after in zip(outcome.looks, outcome.looks[1:], strict=False):
            second = int(before.at - began)
            new = outcome.latencies_ms[before.answers : after.answers]
            latencies.setdefault(second, array("f")).extend(new)
            refused[second] = refused.get(second, 0) + after.refused - before.refused
    return [
        asdict(_second(at_s, latencies.get(at_s, array("f")), refused.get(at_s, 0)))
        for at_s in range(max(latencies, default=-1) + 1)
    ]


def _second(at_s: int, latencies_ms: "array[float]", refused: int) -> Second:
    ordered = sorted(latencies_ms)
    shares = (percentile(ordered, share) for share in (0.5, 0.95, 1))
    return Second(at_s, len(ordered), refused, *shares)


def draw(report: dict[str, Any], path: Path, title: str) -> None:
    """Throughput over latency as a picture; its format is what the name ends with. ``report["events"]``, where there
    are any, are marked: ``at_s`` and ``text``.

    :raises OSError: it can't be written
    """
    import matplotlib

    matplotlib.use("Agg")  # also where there is a screen
    from matplotlib import pyplot

    seconds = report["timeline"]
    at_s = [one["at_s"] for one in seconds]
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(11, 6.5), layout="constrained")
    above.step(at_s, [one["acked"] for one in seconds], where="post", label="acked", color="#2563eb")
    above.step(at_s, [one["refused"] for one in seconds], where="post", label="refused", color="#dc2626")
    above.set(title=title, ylabel="votes a second", ylim=(0, None))
    for name, color in (("max", "#d4d4d8"), ("p95", "#2563eb"), ("p50", "#0f766e")):
        values = [max(one[f"{name}_ms"], _LEAST_MS) if one["acked"] else float("nan") for one in seconds]
        below.step(at_s, values, where="post", label=name, color=color)
    below.set(xlabel="seconds", ylabel="ack latency, ms", yscale="log", ylim=(_LEAST_MS, None))
    for event in report.get("events", ()):
        for part in (above, below):
            part.axvline(event["at_s"], color="#a1a1aa", linewidth=0.7, linestyle=":")
        above.text(
            event["at_s"], 0.02, f" {event['text']}", transform=above.get_xaxis_transform(), rotation=90, fontsize=7
        )
    for part in (above, below):
        part.grid(alpha=0.25)
        part.legend(loc="upper right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
