"""Sends commands to the workers and brings back their answers."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec

from models.runtime.clock import now_us
from models.runtime.correlation import traceparent
from models.wire import names
from models.wire.envelope import wrap
from models.wire.notices import CommandFailed, Notice
from socket_tier.amqp.publisher import Publisher
from socket_tier.refusals import ComeBackLater, Invalid, NodeBusy, WorkersUnavailable

_MAX_WAITING = 10_000


class Commands:
    """The one way from this node to the workers."""

    def __init__(self, publisher: Publisher, reply_timeout_s: float, address: Callable[[], UUID]) -> None:
        """``address``: where this node hears answers now (``names.reply_queue``)."""
        self._publisher = publisher
        self._reply_timeout_s = reply_timeout_s
        self._address = address
        self._waiting: dict[UUID, asyncio.Future[Notice]] = {}

    async def send(self, command: msgspec.Struct) -> None:
        """Returning means that the command is durable.

        :raises BrokerUnavailable: not confirmed; safe to send again
        :raises NodeBusy: too much in flight; safe to send again
        """
        queue, body = wrap(command, traceparent(), sent_us=now_us())
        await self._publisher.publish(names.COMMANDS_EXCHANGE, queue, body)

    async def broadcast(self, notice: msgspec.Struct) -> None:
        """Tell all nodes.

        :raises BrokerUnavailable: not confirmed
        """
        await self._publisher.publish(names.NODES_EXCHANGE, "", msgspec.json.encode(notice))

    async def request(
        self,
        command: msgspec.Struct,
        request_id: UUID,
        timeout_s: float | None = None,
        when_durable: Callable[[], Awaitable[None]] | None = None,
    ) -> Notice:
        """Send a command and wait for its answer, at most ``reply_timeout_s`` seconds after the confirm. It is answered
        to this node's present address, whatever the caller has put there.

        ``when_durable`` is awaited between the confirm and the answer.

        :raises NoAnswer: the command is durable, the answer did not come in time
        :raises Refused: the worker refused it, or it could not be sent
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise NodeBusy()
        answer: asyncio.Future[Notice] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            await self.send(self._addressed(command))
            if when_durable is not None:
                await when_durable()
            try:
                notice = await asyncio.wait_for(answer, timeout_s or self._reply_timeout_s)
            except TimeoutError:
                raise NoAnswer() from None
        finally:
            del self._waiting[request_id]
        if isinstance(notice, CommandFailed):
            raise _refusal(notice)
        return notice

    def _addressed(self, command: msgspec.Struct) -> msgspec.Struct:
        """In some commands ``node_id`` says more than where to answer."""
        field = "reply_to" if "reply_to" in command.__struct_fields__ else "node_id"
        return msgspec.structs.replace(command, **{field: self._address()})

    def answered(self, request_id: UUID, notice: Notice) -> None:
        """Hand an answer to whoever waits for it; nobody does after the time-out, or on another node."""
        answer = self._waiting.get(request_id)
        if answer is not None and not answer.done():
            answer.set_result(notice)


class NoAnswer(WorkersUnavailable):
    """The command is stored and will be carried out, but no answer came in time."""

    timed_out = True


_STATUS = {"poll_not_found": 404, "not_host": 403}


def _refusal(notice: CommandFailed) -> Exception:
    if notice.retry_after_s > 0:
        return ComeBackLater(notice.error, notice.code, notice.retry_after_s)
    return Invalid(notice.error, notice.code, status=_STATUS.get(notice.code, 400))
