"""Lets a crowd through a few at a time, so that the event loop stays quick for everybody who is already in."""

import asyncio


class Turnstile:
    """At most ``per_turn`` callers go on in one turn of the event loop; the others wait, first come first served.

    A thousand handshakes that arrive together would otherwise be one turn of a second, in which acks wait and calls to
    Redis seem to time out.
    """

    def __init__(self, per_turn: int) -> None:
        self._places = asyncio.Semaphore(per_turn)

    async def enter(self) -> None:
        async with self._places:
            await asyncio.sleep(0)
