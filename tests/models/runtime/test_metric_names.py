"""Every metric is listed with a sentence, and whatever is listed is measured somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.runtime import certificates, metrics, process_levels
from models.runtime.metrics import Metrics, Names, listed
from models.runtime.secrets import watch
from scripts.probing.metrics import ProbeMetrics
from scripts.stack.run_folder import ROOT
from socket_tier.metrics import NodeMetrics
from workers.metrics import WorkerMetrics

CALLS = {"count": "counters", "gauge": "gauges", "timing_ms": "timings", "timings_ms": "timings"}
TIERS = pytest.mark.parametrize("tier", [NodeMetrics, WorkerMetrics])


def sources(tier: type[Metrics]) -> Iterator[ast.AST]:
    """The code of a tier, and of what both share, without the lists of names."""
    folder = Path(ROOT, tier.__module__.partition(".")[0])
    shared = [Path(module.__file__) for module in (metrics, process_levels, watch, certificates)]
    for file in [*folder.rglob("*.py"), *shared]:
        tree = ast.parse(file.read_text())
        lists = (file.name == "metrics.py" and file.parent == folder) or file in shared[:2]
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)) if lists else [tree]


def texts(node: ast.AST) -> Iterator[str]:
    """A pattern for each text in the code; what is filled in at run time may be anything that a name may hold."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            if not isinstance(part.values[0], ast.Constant) or "." not in str(part.values[0].value):
                continue  # no name of ours: each begins with a word and a dot
            yield "".join(
                re.escape(str(piece.value)) if isinstance(piece, ast.Constant) else r"[a-z0-9_-]+"
                for piece in part.values
            )
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield re.escape(part.value)


@TIERS
def test_what_is_listed_is_measured(tier: type[Metrics]) -> None:
    names: Names = tier.names
    patterns = {text for source in sources(tier) for text in texts(source) if r"\." in text or text.isalpha()}
    patterns.add(re.escape(metrics.NOT_SENT))  # by that constant
    for name in (*names.counters, *names.gauges, *names.timings):
        sample = name.replace("*", "sample")
        assert any(re.fullmatch(pattern, sample) for pattern in patterns), f"nobody measures {name}"


@TIERS
def test_what_is_measured_is_listed(tier: type[Metrics]) -> None:
    found = 0
    for source in sources(tier):
        for call in (node for node in ast.walk(source) if isinstance(node, ast.Call)):
            kind = CALLS.get(call.func.attr) if isinstance(call.func, ast.Attribute) else None
            if kind is None or not call.args or "metrics" not in ast.unparse(call.func):
                continue
            for name in (part.value for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)):
                if isinstance(call.args[0], ast.Constant | ast.IfExp):
                    assert listed(getattr(tier.names, kind), name), f"{name} is not listed"
                    found += 1
    assert found > 30


@pytest.mark.parametrize("tier", [NodeMetrics, WorkerMetrics, ProbeMetrics])
def test_a_sentence_stands_beside_each_name(tier: type[Metrics]) -> None:
    for name, sentence in {**tier.names.counters, **tier.names.gauges, **tier.names.timings}.items():
        assert re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(\.\*)?", name), name
        assert len(sentence.split()) > 1, name


def test_a_family_takes_words_and_no_more() -> None:
    names = {"refusals.*": "", "votes.accepted": ""}
    assert listed(names, "refusals.room_full") and listed(names, "votes.accepted")
    for name in ("refusals.ABC234", "refusals.a.b", "refusals.*", "votes.refused", "refusals." + "a" * 41):
        assert not listed(names, name), name
