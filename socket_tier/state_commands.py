"""Sends state changes to the workers, and sees to it that a close holds everywhere from its receipt on."""

import asyncio
import logging

from models.wire.commands import ChangeState
from models.wire.notices import Notice, PollClosing, StateChanged
from models.wire.polls import PollState
from socket_tier.cache import Cache
from socket_tier.commands import Commands, NoAnswer
from socket_tier.refusals import BrokerUnavailable, Refused
from socket_tier.rooms import Room
from socket_tier.state_changes import StateChanges
from socket_tier.tasks import Tasks

log = logging.getLogger(__name__)

_SEND_AGAIN_EVERY_S = 1.0
_SEND_AGAIN_FOR_S = 30.0


class StateCommands:
    def __init__(self, commands: Commands, cache: Cache, states: StateChanges, tasks: Tasks) -> None:
        self._commands = commands
        self._cache = cache
        self._states = states
        self._tasks = tasks

    async def send(self, room: Room, command: ChangeState) -> StateChanged:
        """Have a change of the poll's state decided.

        An opening holds from its commit on: a vote must not reach a worker before the opening does.

        :raises NoAnswer: it is durable, and will be decided in the order of ``at_us``
        :raises Refused: it was not applied; a close whose confirm never came may still be
        """
        if command.new_state is PollState.OPEN:
            answer = await self._commands.request(command, command.command_id)
        else:
            answer = await self._close(room, command)
        assert isinstance(answer, StateChanged)
        return answer

    async def _close(self, room: Room, command: ChangeState) -> Notice:
        """From its receipt on no vote is taken: here at once, elsewhere as soon as the command is durable.

        Whatever state the poll is in here: an opening may be on its way from another node.
        """
        notice = PollClosing(room.poll.poll_id, room.code, command.at_us, command.correlation_id)
        self._states.close_asked(room, notice)
        try:
            return await self._commands.request(
                command, command.command_id, when_durable=lambda: self._tell_the_others(notice)
            )
        except NoAnswer:
            raise
        except Refused as refusal:
            if isinstance(refusal, BrokerUnavailable) and refusal.unclear:
                self._tasks.start(self._make_sure(room, command, notice), "make-sure-of-close")
            else:
                self._states.reopen_admission(room, command.at_us)
            raise

    async def _tell_the_others(self, notice: PollClosing) -> None:
        self._states.closing(notice)
        told = await asyncio.gather(
            self._commands.broadcast(notice),
            self._cache.note_closing(notice.room_code, notice.at_us),
            return_exceptions=True,
        )
        for failure in told:
            if isinstance(failure, Refused):
                log.warning("closing_not_announced", extra={"code": failure.code})  # the commit will be
            elif isinstance(failure, BaseException):
                raise failure

    async def _make_sure(self, room: Room, command: ChangeState, notice: PollClosing) -> None:
        """Nobody knows whether the broker has this close. If it has, votes that are taken now will be refused; so it
        holds here, and is sent again until it is durable. A host who was told to ask again loses nothing by that.

        Given up after a while: the other nodes, which know nothing of it, must not take votes in vain for long.
        """
        deadline = asyncio.get_running_loop().time() + _SEND_AGAIN_FOR_S
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_SEND_AGAIN_EVERY_S)
            try:
                await self._commands.send(command)
            except Refused as refusal:
                log.info("close_sent_again", extra={"code": refusal.code})
                continue
            await self._tell_the_others(notice)
            return
        log.warning("close_given_up", extra={"poll_id": command.poll_id})
        self._states.reopen_admission(room, command.at_us)
