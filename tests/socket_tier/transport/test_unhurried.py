"""Frames that nobody waits for: they ride along, go by themselves in the end, and a flood of them is spread out."""

import asyncio

from socket_tier.transport.unhurried import Unhurried
from tests.socket_tier.waiting import eventually


class Client:
    """Holds one frame at a time, and remembers in which step it wrote."""

    def __init__(self, unhurried: Unhurried) -> None:
        self._unhurried = unhurried
        self._queued = False
        self.held_since = 0
        self.holding = False
        self.wrote: list[int] = []

    def hold(self) -> None:
        self.holding, self.held_since = True, self._unhurried.step
        if not self._queued:
            self._queued = True
            self._unhurried.add(self)

    def holds_frames(self) -> bool:
        return self.holding

    def write_held(self) -> None:
        self.holding = False
        self.wrote.append(self._unhurried.step)

    def left_queue(self) -> None:
        self._queued = False


async def test_a_frame_goes_by_itself_after_a_moment() -> None:
    unhurried = Unhurried()
    client = Client(unhurried)
    client.hold()
    await eventually(lambda: client.wrote, "the frame")
    assert client.wrote[0] > 1


async def test_one_client_that_fails_does_not_hold_up_the_others() -> None:
    class Broken(Client):
        def write_held(self) -> None:
            raise RuntimeError

    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    unhurried = Unhurried()
    broken, other = Broken(unhurried), Client(unhurried)
    broken.hold()
    other.hold()
    await eventually(lambda: other.wrote, "the other client's frame")
    assert [type(complaint["exception"]) for complaint in complaints] == [RuntimeError]


async def test_what_has_gone_with_another_frame_costs_no_write() -> None:
    unhurried = Unhurried()
    idle, busy = Client(unhurried), Client(unhurried)
    busy.hold()
    busy.holding = False  # its ack took the frame along
    idle.hold()
    await eventually(lambda: idle.wrote, "the other client's frame")
    assert busy.wrote == []
    # And it is taken in again with its next frame
    busy.hold()
    await eventually(lambda: busy.wrote, "its next frame")


async def test_a_client_whose_frames_keep_riding_along_is_not_written_to() -> None:
    unhurried = Unhurried()
    client = Client(unhurried)
    for _ in range(50):
        client.hold()  # what it held before has gone along with an ack
        await asyncio.sleep(0.01)
    assert unhurried.step > 20
    assert client.wrote == []
    await eventually(lambda: client.wrote, "its last frame")


async def test_a_flood_is_spread_over_many_steps_and_leaves_nobody_out() -> None:
    unhurried = Unhurried()
    crowd = [Client(unhurried) for _ in range(2_000)]
    for client in crowd:
        client.hold()
    await eventually(lambda: all(client.wrote for client in crowd), "everybody's frame")
    steps = [client.wrote[0] for client in crowd]
    assert max(steps.count(step) for step in set(steps)) <= 80
    assert steps == sorted(steps)


async def test_nothing_runs_while_nobody_holds_anything() -> None:
    unhurried = Unhurried()
    client = Client(unhurried)
    client.hold()
    await eventually(lambda: client.wrote, "the frame")
    step = unhurried.step
    await asyncio.sleep(0.1)
    assert unhurried.step == step
