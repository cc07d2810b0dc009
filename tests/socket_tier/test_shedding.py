"""What a node refuses when it can't keep up, and in which order."""

import pytest

from models.runtime.settings import ShedSettings, load
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import NodeBusy
from socket_tier.shedding import Shedding

_SETTINGS = ShedSettings(read_only=False, newcomers_lag_s=0.5, newcomers_buffer_share=0.5, votes_lag_s=1.5)


class Node:
    """The part of a node that sheds, and how full its vote buffer is."""

    def __init__(self) -> None:
        self.buffer_share = 0.0
        metrics = NodeMetrics(load().metrics, "node", "test")
        self._shedding = Shedding(_SETTINGS, lambda: self.buffer_share, metrics)

    def late(self, lag_s: float, *, probes: int = 1) -> None:
        for _ in range(probes):
            self._shedding.loop_was_late(lag_s)

    def refuses(self) -> set[str]:
        refused = set()
        for what, asked in {"newcomers": self._shedding.newcomer, "votes": self._shedding.vote}.items():
            try:
                asked()
            except NodeBusy as refusal:
                assert refusal.retry_after_s > 0
                refused.add(what)
        return refused


@pytest.fixture
def node() -> Node:
    return Node()


def test_an_event_loop_that_stays_late_costs_newcomers_first_and_then_votes(node: Node) -> None:
    node.late(1.0, probes=20)
    assert node.refuses() == {"newcomers"}
    node.late(3.0, probes=20)
    assert node.refuses() == {"newcomers", "votes"}
    node.late(0.0, probes=20)
    assert node.refuses() == set()


def test_a_node_that_was_stopped_for_a_while_has_nothing_to_shed(node: Node) -> None:
    node.late(0.01, probes=5)
    node.late(12.0)
    assert node.refuses() == set()
    node.late(0.1)
    assert node.refuses() == set()


def test_a_vote_buffer_that_fills_up_costs_newcomers_but_no_votes(node: Node) -> None:
    node.buffer_share = 0.6
    assert node.refuses() == {"newcomers"}
