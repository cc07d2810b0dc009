"""Votes: decide, commit, answer."""

import logging

import redis

from models.runtime.clock import now_us
from models.runtime.logs import Singles
from models.wire import names
from models.wire.commands import VoteBatch
from models.wire.notices import BatchApplied, Rejection
from workers import delivery
from workers.actors import HOST_FIRST, declare
from workers.broker import CommandBroker
from workers.choices import ChoiceWriter
from workers.fan_out import Emission, FanOut
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.outbox import Unroutable
from workers.vote_flusher import VoteFlusher

log = logging.getLogger(__name__)


class VoteActors:
    def __init__(
        self,
        flusher: VoteFlusher,
        notices: Notices,
        fan_out: FanOut,
        choices: ChoiceWriter,
        metrics: WorkerMetrics,
        singles: Singles,
    ) -> None:
        self._flusher = flusher
        self._notices = notices
        self._fan_out = fan_out
        self._choices = choices
        self._metrics = metrics
        self._singles = singles

    def declare(self, broker: CommandBroker) -> None:
        declare(broker, VoteBatch, self.store_votes, priority=HOST_FIRST)

    def store_votes(self, batch: VoteBatch) -> None:
        """Decide a batch and tell its node. A batch in which a vote was rejected is acked only after its voter's node
        has the answer, or the voter was told through Redis."""
        delivered = delivery.current()
        delivered.told |= {"batch_id": batch.batch_id.hex, "votes": len(batch.votes)}
        rejected = self._flusher.store(batch)
        applied = BatchApplied(batch.batch_id, now_us(), rejected, retried=delivered.failed_tries > 0)
        address = batch.reply_to or batch.node_id
        if not rejected:
            self._notices.answer(address, applied)
            return
        delivered.told["rejected"] = len(rejected)
        self._note(batch, rejected, delivered.traced)
        # They are shown as acked, or will be; a node that is still there forgets them too.
        self._choices.note([batch.votes[one.index] for one in rejected], count=False)
        try:
            self._notices.answer_surely(address, applied)
        except Unroutable:
            self._tell_voters(batch, rejected)

    def _note(self, batch: VoteBatch, rejected: tuple[Rejection, ...], traced: dict[int, str]) -> None:
        for one in rejected:
            if self._singles.allows():
                named = {"correlation_id": traced[one.index]} if one.index in traced else {}
                fields = {"batch_id": batch.batch_id.hex, "index": one.index, "code": one.code}
                log.info("vote_not_counted", extra=fields | named)

    def _tell_voters(self, batch: VoteBatch, rejected: tuple[Rejection, ...]) -> None:
        """Their node is gone; they are connected to another one by now, or to none."""
        emissions = []
        for rejection in rejected:
            vote = batch.votes[rejection.index]
            payload = {
                "optionIndex": vote.option_index,
                "roomCode": rejection.room_code,
                "error": rejection.error,
                "code": rejection.code,
                names.REFUSED: [vote.seq, rejection.stands],
            }
            emissions.append(Emission(names.VOTE_REJECTED, payload, names.participant_room(vote.participant_id)))
        try:
            self._fan_out.emit(emissions)
        except redis.RedisError as error:
            # The rejection itself is stored; only the message to somebody who may not even be there is lost.
            log.warning("voters_not_told", extra={"votes": len(emissions), "error": repr(error)})
        else:
            self._metrics.count("votes.answered_late", len(emissions))
