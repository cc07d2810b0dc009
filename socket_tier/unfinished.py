"""Messages of which only a part has come: how much memory they may hold together, and how long a body may take."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp import web


class Sender(Protocol):
    """Whoever has sent a part of a message."""

    def give_up(self) -> None:
        """End it: what has come of the message is needed no more."""


class Unfinished:
    """How much this node holds of messages that have come in part only, of all senders together.

    Beyond ``most_bytes`` the sender of the largest part is given up: many slow senders can't fill the memory, and
    honest ones, whose messages are small, are the last to go.
    """

    def __init__(self, most_bytes: int) -> None:
        self.held = 0
        self._most_bytes = most_bytes
        self._parts: dict[Sender, int] = {}

    def holds(self, sender: Sender, size: int) -> None:
        """So much has come of the sender's message."""
        self.held += size - self._parts.get(sender, 0)
        self._parts[sender] = size
        while self.held > self._most_bytes:
            largest = max(self._parts, key=self._parts.__getitem__)
            self.done(largest)
            largest.give_up()

    def done(self, sender: Sender) -> None:
        """The sender's message is whole, or the sender is gone. Harmless when nothing was held."""
        self.held -= self._parts.pop(sender, 0)


class BodyNotRead(Exception):
    """A request's body can't be used. ``reason``: late, given_up, too_large or gone (with the client)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Bodies:
    """Reads bodies of HTTP requests. ``on_cut(reason, address)`` hears of those that were cut off."""

    def __init__(
        self, unfinished: Unfinished, deadline_s: float, on_cut: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self.deadline_s = deadline_s
        self.unfinished = unfinished
        self._on_cut = on_cut

    async def read(self, request: web.Request, most_bytes: int) -> bytes:
        """The whole body.

        :raises BodyNotRead:
        """
        body = _Body(request)
        try:
            async with asyncio.timeout(self.deadline_s):
                while piece := await request.content.readany():
                    body.data += piece
                    if len(body.data) > most_bytes:
                        raise BodyNotRead("too_large")
                    self.unfinished.holds(body, len(body.data))
        except TimeoutError:
            self._cut("slow_body", request)
            raise BodyNotRead("late") from None
        except _GivenUp:
            self._cut("unfinished", request)
            raise BodyNotRead("given_up") from None
        except (OSError, web.RequestPayloadError) as error:
            raise BodyNotRead("gone") from error
        finally:
            self.unfinished.done(body)
        return bytes(body.data)

    def _cut(self, reason: str, request: web.Request) -> None:
        self._on_cut(reason, request.get("address", ""))


class _GivenUp(Exception):
    """Other bodies need the memory."""


class _Body:
    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.data = bytearray()

    def give_up(self) -> None:
        self._request.content.set_exception(_GivenUp())
