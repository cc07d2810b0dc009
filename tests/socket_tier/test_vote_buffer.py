"""Votes are held for a moment, sent together, and each voter is answered once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from models.runtime.logs import Singles
from models.runtime.settings import BatchSettings, load
from models.wire.commands import CastVote, VoteBatch
from models.wire.notices import BatchApplied
from socket_tier import vote_buffer
from socket_tier.amqp.publisher import Publisher
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import BrokerUnavailable, NodeBusy
from socket_tier.vote_buffer import VoteBuffer
from socket_tier.vote_log import VoteLog
from tests.socket_tier.waiting import eventually

NODE = UUID(int=0xA)
POLL = 7


class Broker:
    """In the publisher's place: keeps what is published, and confirms when the test says so."""

    def __init__(self) -> None:
        self.published: list[tuple[VoteBatch, asyncio.Future[bool]]] = []
        self.away: str | None = None
        self.full = False

    def trouble(self) -> str | None:
        return self.away

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[bool]:
        if self.full:
            raise NodeBusy()
        batch = msgspec.convert(msgspec.json.decode(body)["args"][0], VoteBatch, strict=False)
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.published.append((batch, confirmed))
        return confirmed

    def confirm(self) -> None:
        for _, confirmed in self.published:
            if not confirmed.done():
                confirmed.set_result(False)

    def options(self) -> list[list[int]]:
        return [[vote.option_index for vote in batch.votes] for batch, _ in self.published]


@dataclass(eq=False)
class Voter:
    """A receipt that remembers its answers."""

    arrived: float = 0.0
    sid: str = "sid"
    command_id: str | None = None
    room_code: str = "ABC234"
    answers_itself: bool = True
    correlation_id: str = ""
    answers: list[BaseException | None] = field(default_factory=list)

    def settle(self, error: BaseException | None, correlation: str = "") -> None:
        self.answers.append(error)

    def recorded(self, recorded_at: str, frames: dict[Any, bytes]) -> bool:
        return True


def buffer_with(
    broker: Broker, address: Callable[[], UUID] | None = None, *, begun: bool = True, **changes: float
) -> VoteBuffer:
    settings = BatchSettings(
        max_votes=3, max_wait_s=0.01, busy_votes=4, max_wait_busy_s=60, capacity_votes=5, receipts=100
    )
    buffer = VoteBuffer(
        cast(Publisher, broker),
        msgspec.structs.replace(settings, **changes),
        NODE,
        NodeMetrics(load().metrics, "node", "test"),
        VoteLog(load().log, Singles(100)),
        address or (lambda: NODE),
    )
    if begun:
        buffer.begin()
    return buffer


def vote(option: int, poll_id: int = POLL) -> CastVote:
    return CastVote(poll_id, uuid4(), option, 1, 1)


async def test_votes_that_come_together_travel_together_and_in_order() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    for option in range(4):
        buffer.add(vote(option), Voter())
    # The third makes a batch full; the fourth waits for company, in vain
    assert broker.options() == [[0, 1, 2]]
    await eventually(lambda: broker.options() == [[0, 1, 2], [3]], "the second batch")


async def test_under_load_and_while_nothing_can_be_stored_a_batch_waits_longer_for_company() -> None:
    broker = Broker()
    buffer = buffer_with(broker, busy_votes=2)
    # Given a batch of as many votes as tell of load
    buffer.add(vote(0), Voter())
    buffer.add(vote(1), Voter())
    buffer.flush()
    # Then the next vote waits longer than one at rest, until others have made its batch full
    buffer.add(vote(2), Voter())
    await asyncio.sleep(0.05)
    assert broker.options() == [[0, 1]]
    buffer.flush()
    # And after that batch of one the next doesn't, but while the database is away
    broker.confirm()
    buffer.add(vote(0), Voter())
    await eventually(lambda: broker.options() == [[0, 1], [2], [0]], "a batch at rest")
    buffer.database_away(True)
    buffer.add(vote(1), Voter())
    await asyncio.sleep(0.05)
    assert broker.options() == [[0, 1], [2], [0]]


async def test_nobody_is_answered_before_the_confirm_and_everybody_once_after_it() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    voters = [Voter() for _ in range(3)]
    for number, voter in enumerate(voters):
        buffer.add(vote(number), voter)
    await asyncio.sleep(0.05)
    assert [voter.answers for voter in voters] == [[], [], []]
    assert buffer.held == 3
    broker.confirm()
    await eventually(lambda: buffer.held == 0, "all answered")
    assert [voter.answers for voter in voters] == [[None]] * 3


async def test_one_voter_who_cannot_be_answered_costs_the_others_no_answer() -> None:
    class Broken(Voter):
        def settle(self, error: BaseException | None, correlation: str = "") -> None:
            raise RuntimeError

    broker = Broker()
    buffer = buffer_with(broker)
    others = [Voter(), Voter()]
    for number, voter in enumerate([others[0], Broken(), others[1]]):
        buffer.add(vote(number), voter)
    broker.confirm()
    await eventually(lambda: buffer.held == 0, "all answered")
    assert [voter.answers for voter in others] == [[None], [None]]


async def test_what_is_held_is_bounded() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    for number in range(5):
        buffer.add(vote(number), Voter())
    with pytest.raises(NodeBusy):
        buffer.add(vote(5), Voter())
    assert buffer.share_held() == 1
    # Once the broker has confirmed there is room again
    buffer.flush()
    broker.confirm()
    await eventually(lambda: buffer.held == 0, "room")
    buffer.add(vote(6), Voter())


async def test_with_the_broker_away_nothing_is_held() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    broker.away = "disconnected"
    with pytest.raises(BrokerUnavailable):
        buffer.add(vote(0), Voter())
    assert buffer.held == 0


async def test_a_batch_that_fails_is_an_answer_for_each_of_its_voters() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    unconfirmed, unsent = Voter(), Voter()
    buffer.add(vote(0), unconfirmed)
    buffer.flush()
    error = BrokerUnavailable(unclear=True)
    broker.published[0][1].set_exception(error)
    broker.full = True
    buffer.add(vote(1), unsent)
    buffer.flush()
    await eventually(lambda: unconfirmed.answers, "an answer")
    assert unconfirmed.answers == [error]
    assert isinstance(unsent.answers[0], NodeBusy)
    assert buffer.held == 0


async def test_the_flush_report_counts_confirmed_batches_and_names_unclear_ones() -> None:
    broker = Broker()
    buffer = buffer_with(broker, max_votes=1)
    for _ in range(2):
        buffer.add(vote(0), Voter())
    buffer.add(vote(0, poll_id=8), Voter())
    broker.confirm()
    buffer.add(vote(0), Voter())
    unclear, confirmed = broker.published[3]
    # While one is under way there is nothing to report
    with pytest.raises(TimeoutError):
        await buffer.flushed(POLL, 0.05)
    confirmed.set_exception(BrokerUnavailable(unclear=True))
    assert await buffer.flushed(POLL, 5) == (2, (unclear.batch_id,))
    assert await buffer.flushed(8, 5) == (1, ())
    assert await buffer.flushed(9, 5) == (0, ())


async def test_receipts_are_kept_until_the_commit_and_the_oldest_forgotten_beyond_the_bound() -> None:
    broker = Broker()
    buffer = buffer_with(broker, max_votes=1, receipts=2)
    voters = [Voter() for _ in range(3)]
    for voter in voters:
        buffer.add(vote(0), voter)
    applied = [buffer.applied(BatchApplied(batch.batch_id, 1)) for batch, _ in broker.published]
    assert [held.receipts for held in applied] == [[], [voters[1]], [voters[2]]]
    # A repeat of the notice finds nothing more
    assert buffer.applied(BatchApplied(broker.published[1][0].batch_id, 1)) == ([], [], {})


async def test_a_closing_buffer_refuses_new_votes_and_answers_those_it_holds() -> None:
    broker = Broker()
    buffer = buffer_with(broker)
    voter = Voter()
    buffer.add(vote(0), voter)
    closing = asyncio.create_task(buffer.close(5))
    await eventually(lambda: broker.published, "the last batch")
    with pytest.raises(NodeBusy):
        buffer.add(vote(1), Voter())
    broker.confirm()
    await closing
    assert voter.answers == [None]


async def test_batches_whose_answer_may_have_been_missed_are_asked_about_until_they_are_answered() -> None:
    broker, address = Broker(), [NODE]
    buffer = buffer_with(broker, lambda: address[0], capacity_votes=20)
    # Given a batch that was answered, one that was not, and one that is not even confirmed
    for option in range(3):
        buffer.add(vote(option), Voter())
        buffer.flush()
        if option < 2:
            broker.confirm()
            await asyncio.sleep(0)
    answered, waiting, unconfirmed = (batch for batch, _ in broker.published)
    buffer.applied(BatchApplied(answered.batch_id, 1))
    # When the node hears again, at another address, and the database is away
    address[0] = UUID(int=0xB)
    buffer.database_away(True)
    buffer.answers_missed()
    asking = asyncio.create_task(buffer.run_asking())
    await asyncio.sleep(1)
    assert len(broker.published) == 3
    # Then the workers are asked when they can answer: with the same batch, which counts once
    buffer.database_away(False)
    await eventually(lambda: len(broker.published) == 4, "the question")
    again = broker.published[3][0]
    assert again == msgspec.structs.replace(waiting, reply_to=address[0])
    assert waiting.reply_to is None
    # And about the other one as soon as its confirm is there
    broker.confirm()
    await eventually(lambda: len(broker.published) == 5, "the other question")
    assert broker.published[4][0].batch_id == unconfirmed.batch_id
    broker.confirm()
    # And no confirmed batch of the poll counts twice
    assert await buffer.flushed(POLL, 5) == (3, ())
    asking.cancel()


async def test_no_vote_is_taken_before_the_workers_know_of_this_node() -> None:
    broker = Broker()
    buffer = buffer_with(broker, begun=False)
    with pytest.raises(NodeBusy):
        buffer.add(vote(0), Voter())
    buffer.begin()
    buffer.add(vote(1), Voter())
    await eventually(lambda: broker.options() == [[1]], "the vote after the beginning")
    # And a node that has ended doesn't begin anew
    await buffer.close(0)
    buffer.begin()
    with pytest.raises(NodeBusy):
        buffer.add(vote(2), Voter())


async def test_votes_that_a_process_has_slept_over_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a vote that is held, and a process that is stopped then for so long that it counts as dead
    monkeypatch.setattr(vote_buffer, "_TOO_LATE_S", 0.05)
    broker = Broker()
    buffer = buffer_with(broker)
    voter = Voter()
    buffer.add(vote(0), voter)
    time.sleep(0.2)  # noqa: ASYNC251  # the whole process is stopped
    # When it goes on, then the voter is asked to come again
    await eventually(lambda: voter.answers, "an answer")
    assert isinstance(voter.answers[0], NodeBusy)
    assert (broker.published, buffer.held) == ([], 0)
