"""Commands carry the address at which their node hears answers now."""

import asyncio
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from models.wire.commands import NodeHeartbeat, RestoreRoom
from models.wire.notices import NodeKnown, RoomRestored
from socket_tier.commands import Commands

NODE, ADDRESS, REQUEST = UUID(int=0xA), UUID(int=0xB), UUID(int=0xC)


class Broker:
    """In the publisher's place: confirms at once."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[bool]:
        self.sent.append(msgspec.json.decode(body)["args"][0])
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        confirmed.set_result(False)
        return confirmed


@pytest.mark.parametrize(
    ("command", "answer", "addressed"),
    [
        (RestoreRoom(REQUEST, NODE, "ABC234", 1), RoomRestored(REQUEST, None), {"node_id": str(ADDRESS)}),
        # Whose votes a close waits for is another matter than where the node hears.
        (
            NodeHeartbeat(NODE, "n", 1, first=True),
            NodeKnown(REQUEST),
            {"node_id": str(NODE), "reply_to": str(ADDRESS)},
        ),
    ],
    ids=["a request", "a heartbeat"],
)
async def test_a_command_is_answered_where_its_node_hears_now(
    command: msgspec.Struct, answer: Any, addressed: dict[str, str]
) -> None:
    broker = Broker()
    commands = Commands(cast(Any, broker), 5, lambda: ADDRESS)
    asking = asyncio.create_task(commands.request(command, REQUEST))
    await asyncio.sleep(0)
    commands.answered(REQUEST, answer)
    assert await asking == answer
    assert addressed.items() <= broker.sent[0].items()
