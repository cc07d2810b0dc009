"""The operators' graphs name only what is measured, and are the same on the node's page and in Grafana."""

import json
import tomllib
from pathlib import Path

import pytest

from models.runtime import settings
from models.runtime.graphs import GraphsError, read_boards, references, target
from scripts import grafana_dashboards
from scripts.stack.run_folder import ROOT
from tests.metric_targets import unlisted

GRAPHS = [(board_id, graph) for board_id, board in read_boards().items() for graph in board.graphs]


@pytest.mark.proves("FR-017")
def test_every_metric_in_the_graphs_is_one_of_ours() -> None:
    assert [
        (graph.title, unlisted(graph.lines.values())) for _, graph in GRAPHS if unlisted(graph.lines.values())
    ] == []
    assert unlisted(["rate node.votes.acepted", "p95 node.votes.accepted", "rate node.voted.*"]) == [
        "rate node.votes.acepted", "p95 node.votes.accepted", "rate node.voted.*",
    ]  # fmt: skip


def test_the_boards_are_those_that_operators_are_promised() -> None:
    assert [*read_boards()] == ["overview", "sockets", "broker", "database", "voters"]
    for board_id, graph in GRAPHS:
        assert graph.unit in grafana_dashboards.UNITS, f"{board_id}: {graph.title}"
        assert graph.says.endswith("."), f"{board_id}: {graph.title}"


@pytest.mark.proves("FR-020")
def test_grafana_has_the_same_graphs() -> None:
    files = {file.name: file.read_text() for file in grafana_dashboards.FOLDER.glob("*.json")}
    assert files == grafana_dashboards.dashboards(), "run scripts/grafana-dashboards"
    prefix = settings.load().metrics.prefix
    for board_id, board in read_boards().items():
        panels = json.loads(files[f"{board_id}.json"])["panels"]
        assert [panel["title"] for panel in panels] == [graph.title for graph in board.graphs]
        shown = [one["target"] for panel in panels for one in panel["targets"]]
        assert shown == [target(text, prefix, name) for graph in board.graphs for name, text in graph.lines.items()]


def test_a_line_becomes_an_expression_of_graphites() -> None:
    assert (
        target("rate node.votes.accepted", "v", "acked") == "alias(stats.counters.v.node.votes.accepted.rate,'acked')"
    )
    assert target("p95 node.votes.ack_ms", "v") == "stats.timers.v.node.votes.ack_ms.upper_95"
    assert target("sum node.rooms", "v") == "sumSeries(stats.gauges.v.node.instances.*.rooms)"
    assert target("each node.rooms", "a.b", "*") == "aliasByNode(stats.gauges.a.b.node.instances.*.rooms,6)"
    assert target("level workers.queues.*.dead", "v", "*") == "aliasByNode(stats.gauges.v.workers.queues.*.dead,5)"
    share = "asPercent(<rate node.votes.refused>, <rate node.votes.accepted>)"
    assert target(share, "v") == (
        "asPercent(stats.counters.v.node.votes.refused.rate, stats.counters.v.node.votes.accepted.rate)"
    )
    assert [(one.word, one.kind, one.name) for one in references(share)] == [
        ("rate", "counters", "votes.refused"), ("rate", "counters", "votes.accepted"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong", ["", "p96 node.votes.ack_ms", "rate browser.votes", "sumSeries(stats.*)", "f(<rate node>)"]
)
def test_what_is_no_line_is_refused(wrong: str) -> None:
    with pytest.raises(GraphsError):
        references(wrong)


def test_graphite_keeps_what_statsd_sends() -> None:
    rules = Path(ROOT, "docker", "graphite")
    statsd = rules.joinpath("statsd.js").read_text()
    schemas = rules.joinpath("storage-schemas.conf").read_text()
    # Of two flushes within one step only the last would be kept.
    assert "flushInterval: 10000," in statsd and "retentions = 10s:" in schemas.split(r"^stats\.")[1]
    assert tomllib.loads(Path(ROOT, "settings.toml").read_text())["default"]["metrics"]["flush_s"] < 10
