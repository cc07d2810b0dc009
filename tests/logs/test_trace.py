"""One vote's or one command's way through node, broker, worker, database and emit, as scripts/trace prints it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pika
import pytest

from models.runtime.clock import now_us
from models.wire.commands import ChangeState
from models.wire.envelope import wrap
from models.wire.polls import PollState
from scripts.faults.stack import RunningStack
from tests.breakable import addresses, amqp_url, base_url, database_url, node_urls, run_dir, second_stack
from tests.logs.conftest import Step, trace, traced
from tests.replica.superuser import ask
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest

# Workers are frozen and killed.
__all__ = ["addresses", "amqp_url", "base_url", "database_url", "node_urls", "run_dir"]

pytestmark = second_stack

NewTrace = Callable[[], tuple[str, str]]
STORED = (
    "arrived (vote_accepted)",
    "published (batch_confirmed)",
    "vote_accepted",
    "taken (command_handled)",
    "began (votes_committed)",
    "votes_committed",
    "command_handled",
    "vote_recorded",
)
SHOWN = ("results_emitted", "results_shown")


@pytest.fixture
async def stack(run_dir: Path) -> AsyncIterator[RunningStack]:
    stack = RunningStack(run_dir)
    yield stack
    stack.mend()


@pytest.fixture
async def poll(rest: Rest) -> Poll:
    return await rest.open_poll()


def in_order(steps: list[Step], *wanted: str) -> bool:
    """Whether the last of each of these come one after the other."""
    last = {step.what: place for place, step in enumerate(steps)}
    places = [last[what] for what in wanted]
    return places == sorted(places)


@pytest.mark.proves("FR-016")
async def test_an_accepted_vote_is_followed_from_the_node_through_the_database_to_the_screens(
    new_browser: NewBrowser, poll: Poll, run_dir: Path, database_url: str, new_trace: NewTrace
) -> None:
    # Given PostgreSQL tells of every statement, as it does of slow ones
    ask(run_dir, database_url, "ALTER SYSTEM SET log_min_duration_statement = 0")
    ask(run_dir, database_url, "SELECT pg_reload_conf()")
    try:
        # When somebody votes and names a trace
        voter = await new_browser().connect()
        joined = await voter.join(poll.code, "Ada")
        trace_id, traceparent = new_trace()
        ack = await voter.vote(poll.code, joined, 1, commandId="command-1", traceparent=traceparent)
        # Then the ack and the receipt carry it
        assert ack["correlationId"] == trace_id
        assert (await voter.hears("vote-recorded"))["correlationId"] == trace_id
        # And the logs tell of the whole way
        steps = await traced(trace_id, run_dir, *STORED, *SHOWN, "statement")
    finally:
        ask(run_dir, database_url, "ALTER SYSTEM RESET log_min_duration_statement")
        ask(run_dir, database_url, "SELECT pg_reload_conf()")
    assert in_order(steps, "arrived (vote_accepted)", "published (batch_confirmed)", "votes_committed", "vote_recorded")
    # The worker's line may be a moment later than what it tells of
    assert in_order(steps, "votes_committed", "results_emitted") and in_order(steps, "votes_committed", "results_shown")
    who = {step.what: step.who for step in steps}
    assert who["vote_accepted"].startswith("node-") and who["votes_committed"].startswith("worker-1")
    assert any("INSERT INTO applied_batches" in step.more for step in steps if step.who == "postgres")
    # And no other vote's
    assert {found for step in steps for found in re.findall(r"command_id=(\S+)", step.more)} == {"command-1"}
    # And the vote is found by its client's own id as well
    assert trace("command-1", run_dir) == steps


@pytest.mark.proves("FR-016")
async def test_a_late_vote_is_followed_to_its_rejection(
    stack: RunningStack, new_browser: NewBrowser, poll: Poll, run_dir: Path, database_url: str, amqp_url: str
) -> None:
    voter = await new_browser().connect()
    joined = await voter.join(poll.code, "Ada")
    closed_at_us = now_us()
    # Given a vote that waits for its worker
    stack["worker-1"].freeze()
    command_id = uuid4().hex
    assert (await voter.vote(poll.code, joined, 1, commandId=command_id))["success"]
    # When a close from before it is applied first
    poll_id = ask(run_dir, database_url, "SELECT id FROM polls WHERE room_code = %s", poll.code)
    close = ChangeState(uuid4(), uuid4(), poll_id, PollState.CLOSED, closed_at_us)
    with closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
        queue, body = wrap(close)
        connection.channel().basic_publish("", queue, body)
    await voter.hears("poll-state-changed", newState="closed")
    stack["worker-1"].thaw()
    # Then the voter is told, and the logs tell of the batch's way and of the vote's end
    assert (await voter.hears("vote-rejected"))["commandId"] == command_id
    steps = await traced(command_id, run_dir, "vote_rejected", "vote_not_counted", "command_handled", "votes_committed")
    assert in_order(steps, "published (batch_confirmed)", "votes_committed", "vote_rejected")
    assert not {"vote_recorded", *SHOWN} & {step.what for step in steps}


@pytest.mark.proves("FR-016")
async def test_a_retried_vote_is_followed_through_both_tries(
    stack: RunningStack, new_browser: NewBrowser, poll: Poll, run_dir: Path
) -> None:
    voter = await new_browser().connect()
    joined = await voter.join(poll.code, "Ada")
    # Given a vote that a worker has taken
    stack["worker-1"].freeze()
    command_id = uuid4().hex
    assert (await voter.vote(poll.code, joined, 1, commandId=command_id))["success"]
    # When that worker is killed, and another takes it
    stack["worker-1"].kill()
    await voter.hears("vote-recorded", commandId=command_id)
    # Then the vote has a line of its own although nobody has asked for it, and the worker's says why
    steps = await traced(command_id, run_dir, "vote_recorded", "command_handled", "votes_committed")
    assert [step.more for step in steps if step.what == "vote_recorded" and "why=retried" in step.more]
    assert [step.more for step in steps if step.what == "command_handled" and "failed_tries=1" in step.more]


@pytest.mark.proves("FR-016")
async def test_a_state_change_is_followed_by_the_id_of_its_call(
    rest: Rest, new_browser: NewBrowser, poll: Poll, run_dir: Path, new_trace: NewTrace
) -> None:
    # Given somebody in the room
    voter = await new_browser().connect()
    await voter.join(poll.code, "Ada")
    trace_id, traceparent = new_trace()
    # When the host closes the poll by REST
    headers = {"Authorization": f"Bearer {poll.host_token}", "traceparent": traceparent}
    answer = await rest.request("POST", f"/api/polls/{poll.code}/state", json={"newState": "closed"}, headers=headers)
    # Then the answer's header and what the room is told carry the caller's id
    assert answer.headers["x-correlation-id"] == trace_id
    assert (await voter.hears("poll-state-changed", newState="closed"))["correlationId"] == trace_id
    # And the logs tell of its way
    steps = await traced(trace_id, run_dir, "request_handled", "command_handled", "state_change_shown", *SHOWN)
    assert "command=change_state" in next(step.more for step in steps if step.what == "command_handled")


@pytest.mark.proves("FR-016")
async def test_a_join_is_followed_into_the_message_it_shares_with_others(
    new_browser: NewBrowser, poll: Poll, run_dir: Path, new_trace: NewTrace
) -> None:
    voter = await new_browser().connect()
    trace_id, traceparent = new_trace()
    ack = await voter.call("join-room", {"roomCode": poll.code, "nickname": "Ada", "traceparent": traceparent})
    assert ack["correlationId"] == trace_id
    steps = await traced(trace_id, run_dir, "event_handled", "command_handled")
    assert "command=register_participants" in next(step.more for step in steps if step.what == "command_handled")
