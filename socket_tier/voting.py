"""A vote's way through the node: check, admit, hold, answer; and later, what became of it."""

import asyncio
import time
from typing import Any
from uuid import UUID

from models.ballots import ERRORS, POLL_NOT_FOUND, VOTE_STANDS
from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id, named_by_caller
from models.wire import names
from models.wire.notices import BatchApplied, Rejection
from models.wire.polls import iso_time
from socket_tier.audit import Audit
from socket_tier.choices import Choices
from socket_tier.fanout import Fanout
from socket_tier.joining import Joining
from socket_tier.limits import Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.payloads import SubmitVote
from socket_tier.refusals import BrokerUnavailable, Invalid, voting_not_open
from socket_tier.rooms import Member, Room, Rooms
from socket_tier.sessions import Session, Sessions
from socket_tier.shedding import Shedding
from socket_tier.socket_rooms import SocketRooms
from socket_tier.vote_buffer import VoteBuffer
from socket_tier.vote_log import VoteLog

_APPLIED_HELD = 10_000  # batches whose voters are still to be told


class AwaitedReceipt:
    """Lets a handler wait for the confirm, and hears of the commit through the Socket.IO server."""

    __slots__ = ("arrived", "command_id", "confirmed", "correlation_id", "room_code", "sid")

    answers_itself = False

    def __init__(self, arrived: float, sid: str, command_id: str | None, room_code: str, correlation: str) -> None:
        self.arrived = arrived
        self.sid = sid
        self.command_id = command_id
        self.room_code = room_code
        self.correlation_id = correlation
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: BaseException | None, correlation: str = "") -> None:
        if self.confirmed.done():
            return
        if error is None:
            self.confirmed.set_result(None)
        else:
            self.confirmed.set_exception(error)
            self.confirmed.exception()  # read once here: a voter who has left meanwhile is no error

    def recorded(self, recorded_at: str, frames: dict[Any, bytes]) -> bool:
        return False


class Voting:
    """Takes votes from sockets."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        joining: Joining,
        buffer: VoteBuffer,
        choices: Choices,
        limits: Limits,
        shedding: Shedding,
        audit: Audit,
        metrics: NodeMetrics,
        sockets: SocketRooms,
    ) -> None:
        self._sockets = sockets
        self._rooms = rooms
        self._joining = joining
        self._buffer = buffer
        self._choices = choices
        self._limits = limits
        self._shedding = shedding
        self._audit = audit
        self._metrics = metrics

    async def submit(self, session: Session, request: SubmitVote) -> dict[str, Any]:
        """The ack of ``submit-vote``: returned once the broker has the vote on disk.

        :raises Refused:
        """
        arrived = time.perf_counter()
        room, member = await self._participant(session, request)
        if room.unheard:
            raise BrokerUnavailable()  # it may be closed, or open again
        at_us = now_us()
        opened_at_us = room.open_since_us(at_us)
        if opened_at_us is None:
            raise voting_not_open()
        if request.option_index >= len(room.poll.options):
            raise Invalid("Invalid option index", "invalid_option")
        if room.vote_stands and member.choice not in (None, request.option_index):
            raise Invalid(ERRORS[VOTE_STANDS], VOTE_STANDS, status=409)
        self._shedding.vote()
        self._limits.vote(member.votes, session.address_votes, room.votes)
        vote = member.cast(room.poll.poll_id, request.option_index, at_us, opened_at_us)
        receipt = AwaitedReceipt(arrived, session.sid, request.command_id, request.room_code, correlation_id.get())
        if named_by_caller.get():
            self._buffer.add_traced(vote, receipt)
        else:
            self._buffer.add(vote, receipt)
        await receipt.confirmed
        first = member.choice is None
        if member.chose(vote):
            if first and room.vote_reveals:
                self._sockets.voted(room, member)
            self._choices.note(room.code, member, vote)
        ack: dict[str, Any] = {"success": True, "status": "queued"}
        if request.command_id is not None:
            ack["commandId"] = request.command_id
        return ack

    async def _participant(self, session: Session, request: SubmitVote) -> tuple[Room, Member]:
        """The socket's own participant, or the cookie's when an offline buffer was flushed before the join."""
        entered = session.participants.get(request.room_code)
        if entered is not None and entered[1].participant_id == request.participant_id:
            return entered
        room = await self._rooms.find(request.room_code)
        for role in session.roles:
            # A host's role has no participant, and what is no id at all names none either.
            if role.participant_id is None or role.participant_id != request.participant_id:
                continue
            if role.poll_id == room.poll.poll_id:
                member = await self._joining.enter(session, room, role.participant_id, role.nickname or "")
                # What this participant voted by way of another node orders this vote behind it.
                await self._joining.learn_choice(room, member)
                return session.participants[room.code]
        self._metrics.count("security.foreign_participant")
        self._audit.note(
            "foreign_participant",
            outcome="refused",
            action="submit-vote",
            room_code=request.room_code,
            actor=str(entered[1].participant_id) if entered else "",
            address=session.address,
        )
        if entered is None:
            raise Invalid("Join the poll before voting", "not_joined", status=403)
        raise Invalid("This participant is not yours", "foreign_participant", status=403)


class VoteResults:
    """Tells voters what became of their votes after the commit."""

    def __init__(
        self,
        buffer: VoteBuffer,
        sessions: Sessions,
        rooms: Rooms,
        choices: Choices,
        fanout: Fanout,
        metrics: NodeMetrics,
        vote_log: VoteLog,
    ) -> None:
        self._buffer = buffer
        self._log = vote_log
        self._sessions = sessions
        self._rooms = rooms
        self._choices = choices
        self._fanout = fanout
        self._metrics = metrics
        self._applied: asyncio.Queue[BatchApplied] = asyncio.Queue()

    def applied(self, notice: BatchApplied) -> None:
        """A batch of this node is committed."""
        if self._applied.qsize() >= _APPLIED_HELD and not notice.rejected:
            self._metrics.count("receipts.forgotten")
        else:
            self._applied.put_nowait(notice)

    async def run(self) -> None:
        while True:
            await self._tell(await self._applied.get())

    async def _tell(self, notice: BatchApplied) -> None:
        votes, receipts, traced = self._buffer.applied(notice)
        now = time.perf_counter()
        self._metrics.timings_ms("votes.recorded_ms", ((now - receipt.arrived) * 1000 for receipt in receipts))
        refused = {rejection.index: rejection for rejection in notice.rejected}
        self._log.recorded(notice, receipts, traced, refused)
        recorded_at = iso_time(notice.recorded_at_us)
        frames: dict[Any, bytes] = {}
        for index, (vote, receipt) in enumerate(zip(votes, receipts, strict=True)):
            rejection = refused.pop(index, None) if refused else None
            if rejection is None and receipt.recorded(recorded_at, frames):
                continue
            payload: dict[str, Any] = {"optionIndex": vote.option_index, "roomCode": receipt.room_code}
            if receipt.command_id is not None:
                payload["commandId"] = receipt.command_id
            if receipt.correlation_id:
                payload["correlationId"] = receipt.correlation_id
            if rejection is not None:
                if rejection.code == POLL_NOT_FOUND:
                    self._rooms.doubt(receipt.room_code, vote.poll_id)
                self._log.rejected(notice.batch_id, rejection, vote.participant_id, receipt, traced.get(index))
                await self._reject(vote.participant_id, vote.seq, payload, rejection)
            elif self._sessions.get(receipt.sid) is not None:
                payload["recordedAt"] = recorded_at
                await self._fanout.deliver(receipt.sid, names.VOTE_RECORDED, payload)
        for forgotten in refused.values():
            # The receipts are gone, the voters aren't.
            if forgotten.participant_id is not None:
                payload = {"optionIndex": forgotten.option_index, "roomCode": forgotten.room_code}
                self._log.rejected(notice.batch_id, forgotten, forgotten.participant_id, None, None)
                await self._reject(forgotten.participant_id, forgotten.seq, payload, forgotten)

    async def _reject(self, participant_id: UUID, seq: int, payload: dict[str, Any], why: Rejection) -> None:
        """Tell the voter, who may sit at another node by now, or in two tabs, and those nodes."""
        self._metrics.count("votes.rejected")
        self._choices.forget(payload["roomCode"], participant_id, seq)
        payload |= {"error": why.error, "code": why.code, names.REFUSED: [seq, why.stands]}
        await self._fanout.broadcast(names.participant_room(participant_id), names.VOTE_REJECTED, payload)
