"""Which votes a node logs one by one, and what it says of them. Never what they chose, nor who chose it by name.

A line about a whole batch names its id and size; a vote is found there by ``batch_id`` and ``index``. Fields named
``..._ms_ago`` tell of moments before the line's own, which ``scripts/trace`` shows as steps.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from models.runtime.correlation import new_id
from models.runtime.logs import Singles
from models.runtime.settings import LogSettings
from models.wire.notices import BatchApplied, Rejection
from socket_tier.receipts import Receipt
from socket_tier.refusals import Refused

log = logging.getLogger(__name__)


class VoteLog:
    """Logs what is sampled, and always what is refused, late, retried or slow. ``settings`` may be replaced."""

    def __init__(self, settings: LogSettings, singles: Singles) -> None:
        self.settings = settings
        self._singles = singles
        self._skip = 0  # votes until the next one of the sample

    def sample(self, receipts: Sequence[Receipt], traced: dict[int, str]) -> None:
        """Add the places, in a batch, of the votes that are sampled, with an id for each."""
        every = self.settings.vote_sample
        if not every:
            return
        places = range(self._skip, len(receipts), every)
        self._skip += len(places) * every - len(receipts)
        for place in places:
            traced.setdefault(place, receipts[place].correlation_id or new_id())

    def confirmed(
        self, batch_id: UUID, receipts: Sequence[Receipt], traced: Mapping[int, str], published: float, *, again: bool
    ) -> None:
        """A batch lies at the broker, and its voters have been told. ``published``: as ``Receipt.arrived``."""
        now = time.perf_counter()
        # By itself a line would be part of what the first of these votes is part of.
        fields = {"batch_id": batch_id.hex, "correlation_id": batch_id.hex, "votes": len(receipts)}
        log.info("batch_confirmed", extra=fields | {"published_ms_ago": _ms_since(published), "sent_again": again})
        for place, why in self._singly(receipts, traced, now, retried=again):
            self._write("vote_accepted", receipts[place], traced.get(place), batch_id, place, why=why)

    def recorded(
        self, notice: BatchApplied, receipts: Sequence[Receipt], traced: Mapping[int, str], rejected: Collection[int]
    ) -> None:
        """A batch is committed."""
        for place, why in self._singly(receipts, traced, time.perf_counter(), retried=notice.retried):
            if place not in rejected:
                self._write("vote_recorded", receipts[place], traced.get(place), notice.batch_id, place, why=why)

    def refused(self, receipt: Receipt, why: BaseException, correlation: str) -> None:
        """A vote was not taken, and its voter has been told under this correlation id."""
        code = why.code if isinstance(why, Refused) else "internal_error"
        self._write("vote_refused", receipt, correlation, code=code)

    def rejected(
        self, batch_id: UUID, why: Rejection, participant_id: UUID, receipt: Receipt | None, correlation: str | None
    ) -> None:
        """A vote that was taken is not counted."""
        fields = {"code": why.code, "participant_id": str(participant_id)}
        self._write("vote_rejected", receipt, correlation, batch_id, why.index, **fields)

    def _singly(
        self, receipts: Sequence[Receipt], traced: Mapping[int, str], now: float, *, retried: bool
    ) -> list[tuple[int, str]]:
        """The places that get a line of their own, and why. A batch's first vote has waited longest."""
        slow_before = now - self.settings.slow_vote_s
        if not traced and not retried and not (receipts and receipts[0].arrived < slow_before):
            return []
        if retried:
            return [(place, "retried") for place in range(len(receipts))]
        slow = {place: "slow" for place, receipt in enumerate(receipts) if receipt.arrived < slow_before}
        return sorted((dict.fromkeys(traced, "traced") | slow).items())

    def _write(
        self,
        event: str,
        receipt: Receipt | None,
        correlation: str | None,
        batch_id: UUID | None = None,
        index: int | None = None,
        **fields: Any,
    ) -> None:
        if not self._singles.allows():
            return
        if batch_id is not None:
            fields |= {"batch_id": batch_id.hex, "index": index}
        if receipt is not None:
            fields |= {"room_code": receipt.room_code, "arrived_ms_ago": _ms_since(receipt.arrived)}
            if receipt.command_id is not None:
                fields["command_id"] = receipt.command_id
        if correlation or batch_id is not None:
            # A vote without an id of its own is part of its batch.
            fields["correlation_id"] = correlation or fields["batch_id"]
        log.log(logging.WARNING if event == "vote_rejected" else logging.INFO, event, extra=fields)


def _ms_since(moment: float) -> float:
    """Of ``time.perf_counter()``."""
    return round((time.perf_counter() - moment) * 1000, 3)
