"""A vote that a full node sheds, as scripts/trace prints it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.logs.conftest import Step, traced
from tests.models.stalling_proxy import StallingProxy
from tests.own_stack import process_number
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.rest import Rest


@pytest.fixture
def broker_way(amqp_url: str) -> Iterator[StallingProxy]:
    broker = urlsplit(amqp_url)
    assert broker.hostname and broker.port
    with StallingProxy(broker.hostname, broker.port) as proxy:
        yield proxy


@pytest.fixture
def small_node(broker_way: StallingProxy, amqp_url: str, run_dir: Path) -> Iterator[ExtraNode]:
    """A node that holds one vote at a time, as long as the broker has not confirmed it."""
    broker = urlsplit(amqp_url)
    through = broker._replace(netloc=broker.netloc.replace(f":{broker.port}", f":{broker_way.port}")).geturl()
    node = ExtraNode(
        "node-small",
        run_dir / "log" / f"node-small-of-{process_number()}.log",
        BROKER__URL=through,
        BROKER__PUBLISH_TIMEOUT_S="60",
        BATCH__MAX_VOTES="1",
        BATCH__CAPACITY_VOTES="1",
    )
    yield node
    broker_way.resume()
    node.stop()


@pytest.mark.proves("FR-016", "FR-041", "US6.5")
async def test_a_shed_vote_is_found_with_the_reason_and_nothing_behind_it(
    small_node: ExtraNode, broker_way: StallingProxy, new_browser: NewBrowser, rest: Rest, run_dir: Path
) -> None:
    poll = await rest.open_poll()
    voters = [await new_browser(small_node.url).connect() for _ in range(2)]
    joined = [await voter.join(poll.code, name) for voter, name in zip(voters, ("Ada", "Ben"), strict=True)]
    # Given a broker that doesn't confirm
    broker_way.stall()
    # When two vote, and the node may hold one vote
    ids = [uuid4().hex, uuid4().hex]
    votes = [
        asyncio.create_task(voter.vote(poll.code, each, 1, commandId=command_id))
        for voter, each, command_id in zip(voters, joined, ids, strict=True)
    ]
    done, (held,) = await asyncio.wait(votes, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    # Then one of them is shed at once, and told when to come again
    (shed,) = done
    refusal = shed.result()
    assert (refusal["success"], refusal["code"]) == (False, "overloaded") and refusal["retryAfter"] > 0
    broker_way.resume()
    assert (await held)["success"]
    # And the logs tell what became of it, by its correlation id and by its client's own
    for wanted in (refusal["correlationId"], ids[votes.index(shed)]):
        steps: list[Step] = await traced(wanted, run_dir, "vote_refused")
        (refused,) = [step for step in steps if step.what == "vote_refused"]
        assert "code=overloaded" in refused.more and f"command_id={ids[votes.index(shed)]}" in refused.more
        # And that it went no further
        assert {step.what for step in steps} <= {"arrived (vote_refused)", "vote_refused", "event_handled"}, steps
