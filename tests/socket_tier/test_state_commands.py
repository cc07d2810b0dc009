"""Closes on their way to the workers: what holds at this node while nobody knows yet what becomes of them."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from models.wire.commands import ChangeState
from models.wire.notices import Notice, PollClosing, StateChanged
from models.wire.polls import PollState
from socket_tier import state_commands
from socket_tier.refusals import BrokerUnavailable, Refused
from socket_tier.rooms import Room
from socket_tier.state_changes import StateChanges
from socket_tier.state_commands import StateCommands
from socket_tier.tasks import Tasks
from tests.socket_tier.test_rooms import room
from tests.socket_tier.waiting import eventually


class Broker:
    """Takes commands when it is told to, and never answers more than that they were applied."""

    def __init__(self) -> None:
        self.failures: list[Refused] = []
        self.may_answer = asyncio.Event()
        self.sent: list[UUID] = []
        self.told: list[PollClosing] = []

    async def request(
        self, command: ChangeState, _request_id: UUID, when_durable: Callable[[], Awaitable[None]] | None = None
    ) -> Notice:
        await self.may_answer.wait()
        await self.send(command)
        if when_durable is not None:
            await when_durable()
        return StateChanged(command.command_id, room().poll, PollState.OPEN)

    async def send(self, command: ChangeState) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(command.command_id)

    async def broadcast(self, notice: PollClosing) -> None:
        self.told.append(notice)


class Node:
    """The parts that see to a close, around one room."""

    def __init__(self, here: Room) -> None:
        self.room = here
        self.broker = Broker()
        self.shown: list[str] = []
        rooms = SimpleNamespace(known=lambda _code: here)
        fanout = SimpleNamespace(deliver=self._deliver)
        tasks = Tasks()
        others: Any = dict.fromkeys(("buffer", "ticker"))
        states = StateChanges(
            rooms=cast(Any, rooms), cache=cast(Any, self), commands=cast(Any, self.broker), fanout=cast(Any, fanout),
            tasks=tasks, node_id=uuid4(), **others,
        )  # fmt: skip
        self.commands = StateCommands(cast(Any, self.broker), cast(Any, self), states, tasks)

    async def note_closing(self, _code: str, _at_us: int) -> None:
        """Redis has it."""

    def close(self) -> asyncio.Task[StateChanged]:
        poll_id, at_us = self.room.poll.poll_id, self.room.next_change_us()
        command = ChangeState(uuid4(), uuid4(), poll_id, PollState.CLOSED, at_us)
        return asyncio.create_task(self.commands.send(self.room, command))

    async def _deliver(self, _code: str, _event: str, payload: dict[str, Any]) -> None:
        self.shown.append(payload["newState"])


async def test_a_close_that_could_not_be_sent_lets_votes_in_again() -> None:
    node = Node(room())
    node.broker.failures = [BrokerUnavailable()]
    closing = node.close()
    await asyncio.sleep(0)
    assert node.room.open_since_us(10) is None
    node.broker.may_answer.set()
    with pytest.raises(BrokerUnavailable):
        await closing
    assert node.room.open_since_us(10) == node.room.poll.opened_at_us
    await eventually(lambda: node.shown == ["closed", "open"], "the room is told both")
    assert node.broker.told == []


async def test_a_close_that_could_not_be_sent_undoes_no_other() -> None:
    # Given two closes on their way, the first of which fails
    node = Node(room())
    node.broker.failures = [BrokerUnavailable()]
    first, second = node.close(), node.close()
    await asyncio.sleep(0)
    node.broker.may_answer.set()
    with pytest.raises(BrokerUnavailable):
        await first
    await second
    # Then the second holds; and if the second fails, the first does
    assert (node.room.open_since_us(10), len(node.broker.told)) == (None, 1)
    node.broker.failures = [BrokerUnavailable()]
    with pytest.raises(BrokerUnavailable):
        await node.close()
    assert node.room.state is PollState.CLOSED
    await eventually(lambda: node.shown == ["closed"], "the room is told once")


async def test_a_close_that_may_have_been_sent_holds_and_is_sent_until_it_surely_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_commands, "_SEND_AGAIN_EVERY_S", 0.01)
    node = Node(room())
    node.broker.may_answer.set()
    node.broker.failures = [BrokerUnavailable(unclear=True), BrokerUnavailable(unclear=True), BrokerUnavailable()]
    closing = node.close()
    with pytest.raises(BrokerUnavailable):
        await closing
    assert (node.room.state, node.broker.told) == (PollState.CLOSED, [])
    await eventually(lambda: node.broker.told, "the other nodes are told")
    assert (len(node.broker.sent), node.room.state) == (1, PollState.CLOSED)


async def test_a_close_that_may_have_been_sent_is_given_up_when_it_never_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_commands, "_SEND_AGAIN_EVERY_S", 0.01)
    monkeypatch.setattr(state_commands, "_SEND_AGAIN_FOR_S", 0.1)
    node = Node(room())
    node.broker.may_answer.set()
    node.broker.failures = [BrokerUnavailable(unclear=True) for _ in range(1000)]
    with pytest.raises(BrokerUnavailable):
        await node.close()
    await eventually(lambda: node.room.state is PollState.OPEN, "votes are let in again")


async def test_a_close_is_told_to_all_whatever_this_node_shows() -> None:
    node = Node(room(state=PollState.CLOSED))
    node.broker.may_answer.set()
    await node.close()
    assert [notice.poll_id for notice in node.broker.told] == [node.room.poll.poll_id]
