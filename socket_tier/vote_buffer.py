"""Holds votes for a few milliseconds, sends them as one message, and answers each voter after the confirm."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from models.runtime.clock import now_us
from models.runtime.correlation import new_id
from models.runtime.settings import BatchSettings
from models.wire import names
from models.wire.commands import CastVote, VoteBatch
from models.wire.envelope import wrap
from models.wire.notices import BatchApplied
from socket_tier.amqp.publisher import Publisher
from socket_tier.metrics import NodeMetrics
from socket_tier.receipts import Receipt
from socket_tier.refusals import BrokerUnavailable, NodeBusy, Refused
from socket_tier.vote_log import VoteLog

log = logging.getLogger(__name__)

_POLLS_KEPT = 100_000
_ASK_EVERY_S = 0.25
_ASKED_AT_ONCE = 20
_TOO_LATE_S = 5.0  # far below worker.straggler_wait_s, together with broker.publish_timeout_s


class Held(NamedTuple):
    """Of a batch that is not known to be stored yet. ``traced``: ids of the votes that are logged singly, by place."""

    votes: list[CastVote]
    receipts: list[Receipt]
    traced: dict[int, str]


@dataclass(slots=True)
class _Published:
    """How many of this node's batches held votes of one poll."""

    confirmed: int = 0
    unclear: set[UUID] = field(default_factory=set)


class VoteBuffer:
    """The way of a vote through this node.

    Bounded by ``capacity_votes`` (held and unconfirmed) and by the publisher's window. Keeps the receipts of confirmed
    batches until the workers say that they are applied, at most ``receipts`` votes of them: the oldest are forgotten,
    which costs their voters the vote-recorded event, not the vote.
    """

    def __init__(
        self,
        publisher: Publisher,
        settings: BatchSettings,
        node_id: UUID,
        metrics: NodeMetrics,
        vote_log: VoteLog,
        address: Callable[[], UUID],
    ) -> None:
        self._publisher = publisher
        self._settings = settings
        self._node_id = node_id
        self._metrics = metrics
        self._log = vote_log
        self._votes: list[CastVote] = []
        self._receipts: list[Receipt] = []
        self._traced: dict[int, str] = {}  # place -> correlation id, of votes that are logged singly
        self._timer: asyncio.TimerHandle | None = None
        self._unsettled: set[asyncio.Future[bool]] = set()
        self._address = address
        self._unconfirmed: set[UUID] = set()  # of those that are awaited
        self._unanswered: list[UUID] = []  # whose answer may have been missed
        self._awaiting_commit: OrderedDict[UUID, Held] = OrderedDict()
        self._awaiting_commit_votes = 0
        self._published: OrderedDict[int, _Published] = OrderedDict()
        self._closed: bool | None = None  # None: this node is not known to the workers yet
        self._busy = self._database_away = False
        self.held = 0

    def begin(self) -> None:
        """Take votes from now on, unless it is closed already."""
        if self._closed is None:
            self._closed = False

    def add(self, vote: CastVote, receipt: Receipt) -> None:
        """Take a vote; its receipt is called when the batch is confirmed or has failed.

        :raises NodeBusy: the buffer is full, closed or has not begun; safe to send again
        :raises BrokerUnavailable: RabbitMQ is away or blocked; safe to send again
        """
        if self._closed is not False or self.held >= self._settings.capacity_votes:
            raise NodeBusy()
        if not self._votes and self._publisher.trouble() is not None:
            raise BrokerUnavailable()
        self.held += 1
        self._votes.append(vote)
        self._receipts.append(receipt)
        if len(self._votes) >= self._settings.max_votes:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._longest_wait_s(), self.flush)

    def add_traced(self, vote: CastVote, receipt: Receipt) -> None:
        """As ``add``, for a vote whose client has named a trace and wants to find it there."""
        place = len(self._votes)
        self._traced[place] = receipt.correlation_id
        try:
            self.add(vote, receipt)
        except Refused:
            del self._traced[place]
            raise

    def refused(self, receipt: Receipt, why: BaseException) -> None:
        """Answer a vote that wasn't taken."""
        correlation = receipt.correlation_id or new_id()
        try:
            receipt.settle(why, correlation)
        except Exception:
            log.exception("vote_not_answered")  # a bug of ours; the batch's other voters get their answers
        if receipt.answers_itself:
            self._count_refused(why, 1)
            self._log.refused(receipt, why, correlation)

    def database_away(self, away: bool) -> None:
        """While the workers can't store anything, batches grow: what they find afterwards is a shorter queue."""
        self._database_away = away

    def share_held(self) -> float:
        """How full the buffer is, between 0 and 1."""
        return self.held / self._settings.capacity_votes

    def flush(self) -> None:
        """Publish what is held now. Not what this process has slept over: its node counts as dead by then, and closes
        wait for nothing that comes so late."""
        late_s = 0.0
        if self._timer is not None:
            late_s = asyncio.get_running_loop().time() - self._timer.when()
            self._timer.cancel()
            self._timer = None
        if not self._votes:
            return
        votes, self._votes = self._votes, []
        receipts, self._receipts = self._receipts, []
        self._busy = len(votes) >= self._settings.busy_votes * (2 if self._busy else 1)
        traced, self._traced = self._traced, {}
        if late_s > _TOO_LATE_S:
            self._answer(receipts, NodeBusy())
            return
        batch = VoteBatch(uuid7(), self._node_id, tuple(votes), reply_to=self._reply_to())
        self._log.sample(receipts, traced)
        queue, body = wrap(batch, message_id=batch.batch_id, traced=traced, sent_us=now_us())
        published = time.perf_counter()
        try:
            confirmed = self._publisher.publish(names.COMMANDS_EXCHANGE, queue, body)
        except Refused as refusal:
            self._answer(receipts, refusal)
            return
        self._metrics.count("batches.published")
        self._metrics.timing_ms("batches.votes", len(votes))
        # The worker's answer may overtake the confirm: keep the receipts from now on.
        self._keep(batch.batch_id, Held(votes, receipts, traced))
        self._unconfirmed.add(batch.batch_id)
        self._unsettled.add(confirmed)
        confirmed.add_done_callback(lambda done: self._settled(batch, receipts, traced, published, done))

    async def settle(self, timeout_s: float) -> bool:
        """Publish what is held; whether every vote taken so far is answered within ``timeout_s`` seconds."""
        self.flush()
        if not self._unsettled:
            return True
        _, pending = await asyncio.wait(tuple(self._unsettled), timeout=timeout_s)
        return not pending

    async def flushed(self, poll_id: int, timeout_s: float) -> tuple[int, tuple[UUID, ...]]:
        """Publish what is held and wait until every batch sent so far is settled.

        Returns how many confirmed batches held votes of the poll, and the ids of those whose confirm never came.

        :raises TimeoutError: batches are still unsettled after ``timeout_s`` seconds
        """
        if not await self.settle(timeout_s):
            raise TimeoutError
        published = self._published.get(poll_id)
        return (published.confirmed, tuple(published.unclear)) if published else (0, ())

    def applied(self, notice: BatchApplied) -> Held:
        """What was held of a batch that the workers have committed; empty when forgotten."""
        return self._forget(notice.batch_id)

    def answers_missed(self) -> None:
        """What the workers said of the batches that are awaited may have gone to a queue that nobody reads."""
        self._unanswered = list(self._awaiting_commit)

    async def run_asking(self) -> None:
        """Publish those batches again, a few at a time: what is applied already is answered anew and changes nothing.
        While the database is away nobody could answer."""
        while True:
            await asyncio.sleep(_ASK_EVERY_S)
            self._unanswered = [batch_id for batch_id in self._unanswered if batch_id in self._awaiting_commit]
            # A batch whose confirm never came is none that a voter relies on, and may come to its confirm yet.
            asked = [batch_id for batch_id in self._unanswered if batch_id not in self._unconfirmed][:_ASKED_AT_ONCE]
            if not asked or self._database_away or self._publisher.trouble() is not None:
                continue
            missed = self._unanswered
            answers = await asyncio.gather(*map(self._ask_again, asked), return_exceptions=True)
            for error in answers:
                if error is not None and not isinstance(error, Refused):
                    raise error
            sent = {batch_id for batch_id, error in zip(asked, answers, strict=True) if error is None}
            if self._unanswered is missed:  # else these answers may be missed as well
                self._unanswered = [batch_id for batch_id in missed if batch_id not in sent]
            self._metrics.count("notices.asked_again", len(sent))

    async def _ask_again(self, batch_id: UUID) -> None:
        """:raises Refused: not sent, or not for sure"""
        held = self._awaiting_commit[batch_id]
        batch = VoteBatch(batch_id, self._node_id, tuple(held.votes), reply_to=self._reply_to())
        queue, body = wrap(batch, message_id=batch_id, traced=held.traced, sent_us=now_us())
        await self._publisher.publish(names.COMMANDS_EXCHANGE, queue, body)

    async def close(self, timeout_s: float) -> None:
        """Refuse new votes; those held still get an answer, within ``timeout_s`` seconds."""
        self._closed = True
        await self.settle(timeout_s)

    def _reply_to(self) -> UUID | None:
        address = self._address()
        return None if address == self._node_id else address

    def _longest_wait_s(self) -> float:
        """How long the first vote of a batch waits for others. A message costs as much as the work of dozens of votes,
        so that two nodes with batches of half the size would be slower than one."""
        return self._settings.max_wait_busy_s if self._busy or self._database_away else self._settings.max_wait_s

    def _keep(self, batch_id: UUID, held: Held) -> None:
        self._awaiting_commit[batch_id] = held
        self._awaiting_commit_votes += len(held.votes)
        while self._awaiting_commit_votes > self._settings.receipts:
            batch_id, forgotten = self._awaiting_commit.popitem(last=False)
            self._unconfirmed.discard(batch_id)
            self._awaiting_commit_votes -= len(forgotten.votes)
            self._metrics.count("receipts.forgotten", len(forgotten.votes))

    def _forget(self, batch_id: UUID) -> Held:
        self._unconfirmed.discard(batch_id)
        held = self._awaiting_commit.pop(batch_id, None) or Held([], [], {})
        self._awaiting_commit_votes -= len(held.votes)
        return held

    def _settled(
        self,
        batch: VoteBatch,
        receipts: list[Receipt],
        traced: dict[int, str],
        published: float,
        confirmed: asyncio.Future[bool],
    ) -> None:
        self._unsettled.discard(confirmed)
        error = confirmed.exception()
        polls = {vote.poll_id for vote in batch.votes}
        if error is None:
            self._unconfirmed.discard(batch.batch_id)
            for poll_id in polls:
                self._account(poll_id).confirmed += 1
        else:
            if isinstance(error, BrokerUnavailable) and error.unclear:
                for poll_id in polls:
                    self._account(poll_id).unclear.add(batch.batch_id)
            else:
                self._forget(batch.batch_id)
            self._metrics.count("batches.failed")
            fields = {"batch_id": batch.batch_id.hex, "correlation_id": batch.batch_id.hex, "votes": len(receipts)}
            log.warning("batch_unconfirmed", extra=fields)
        self._answer(receipts, error)
        if error is None:
            self._log.confirmed(batch.batch_id, receipts, traced, published, again=confirmed.result())

    def _account(self, poll_id: int) -> _Published:
        """Kept until ``_POLLS_KEPT`` others have been voted in since: a poll that is opened again goes on counting."""
        account = self._published.get(poll_id)
        if account is None:
            account = self._published[poll_id] = _Published()
            if len(self._published) > _POLLS_KEPT:
                self._published.popitem(last=False)
        self._published.move_to_end(poll_id)
        return account

    def _answer(self, receipts: list[Receipt], error: BaseException | None) -> None:
        self.held -= len(receipts)
        if error is not None:
            for receipt in receipts:
                self.refused(receipt, error)
            return
        for receipt in receipts:
            try:
                receipt.settle(None)
            except Exception:
                log.exception("vote_not_answered")  # a bug of ours; the batch's other voters get their answers
        self._metrics.count("votes.accepted", len(receipts))
        now = time.perf_counter()
        self._metrics.timings_ms("votes.ack_ms", ((now - receipt.arrived) * 1000 for receipt in receipts))

    def _count_refused(self, why: BaseException, votes: int) -> None:
        if votes:
            self._metrics.count("votes.refused", votes)
            self._metrics.refused("votes", why, votes)
