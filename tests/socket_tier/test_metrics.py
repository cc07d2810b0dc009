"""Which figures a refusal, an error and a vote on the screens make."""

from typing import Any, cast
from uuid import uuid4

import pytest

from models.runtime.logs import Singles
from models.runtime.settings import BudgetSettings, LimitSettings, load
from models.wire import names
from socket_tier.amqp.publisher import Publisher
from socket_tier.commands import NoAnswer
from socket_tier.http import status_refusal
from socket_tier.metrics import LIMITS, NodeMetrics
from socket_tier.refusals import (
    BrokerUnavailable,
    NodeBusy,
    RateLimited,
    Refused,
    WorkersUnavailable,
    poll_not_found,
    unexpected,
)
from socket_tier.vote_buffer import VoteBuffer
from socket_tier.vote_log import VoteLog
from tests.socket_tier.test_ticker import Room
from tests.socket_tier.test_vote_buffer import Broker, Voter, vote
from tests.socket_tier.waiting import eventually


@pytest.fixture
def metrics() -> NodeMetrics:
    return NodeMetrics(load().metrics, "node", "test")


@pytest.mark.proves("FR-019")
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (poll_not_found(), "client"),
        (RateLimited(1, "votes-per-session"), "client"),
        (status_refusal(404), "client"),
        (status_refusal(408), "timeout"),
        (NodeBusy(), "server"),
        (WorkersUnavailable(), "server"),
        (NoAnswer(), "timeout"),
        (unexpected(), "server"),
    ],
)
def test_a_refusal_says_whose_error_it_is(metrics: NodeMetrics, refusal: Refused, kind: str) -> None:
    metrics.refused("requests", refusal)
    assert metrics.take().counts == {
        **dict.fromkeys((name for name in metrics.names.counters if "*" not in name), 0),
        f"refusals.{refusal.code}": 1,
        f"errors.requests.{kind}": 1,
    }


def test_what_broke_counts_like_the_answer_that_its_sender_gets(metrics: NodeMetrics) -> None:
    metrics.refused("events", ZeroDivisionError())
    counts = metrics.take().counts
    assert counts["errors.events.server"] == counts["refusals.internal_error"] == 1


async def test_votes_of_a_batch_that_failed_count_once_each(metrics: NodeMetrics) -> None:
    # Given a batch with two votes that are answered by the buffer, and one that somebody waits for, who counts himself
    broker = Broker()
    vote_log = VoteLog(load().log, Singles(100))
    buffer = VoteBuffer(cast(Publisher, broker), load().batch, uuid4(), metrics, vote_log, uuid4)
    buffer.begin()
    voters = [Voter(), Voter(), Voter(answers_itself=False)]
    for voter in voters:
        buffer.add(vote(0), voter)
    buffer.flush()
    # When it is not confirmed in time
    error = BrokerUnavailable(unclear=True)
    error.timed_out = True
    broker.published[0][1].set_exception(error)
    await eventually(lambda: all(voter.answers for voter in voters), "answers")
    # Then the two are counted
    counts = metrics.take().counts
    assert counts["votes.refused"] == counts["errors.votes.timeout"] == counts["refusals.broker_unavailable"] == 2


def test_every_limit_has_its_counter() -> None:
    budgets = {
        name for name in LimitSettings.__struct_fields__ if isinstance(getattr(load().limits, name), BudgetSettings)
    }
    others = {"votes_per_session", "open_sessions_per_address"}
    assert {name.replace("_", "-") for name in budgets | others} == {*LIMITS}


async def test_totals_that_replace_others_keep_their_oldest_vote() -> None:
    # Given totals that wait for the tick, and newer ones in their place
    room = Room()
    delivered: list[dict[str, Any]] = []

    async def deliver(_code: str, payload: dict[str, Any]) -> None:
        delivered.append(payload)

    room.ticker._deliver = deliver
    for version, oldest in ((1, 50), (2, 30), (3, 40), (4, None)):
        known = {} if oldest is None else {names.OLDEST_VOTE_US: oldest}
        room.ticker.offer("ABC234", version, {"version": version, "final": False, **known})
    # When they are sent
    await eventually(lambda: len(delivered) == 2, "two updates")
    # Then they stand for the votes of all
    assert [(one["version"], one[names.OLDEST_VOTE_US]) for one in delivered] == [(1, 50), (4, 30)]
