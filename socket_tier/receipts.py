"""What the vote buffer knows of a voter."""

from typing import Any, Protocol


class Receipt(Protocol):
    """Whom to tell what became of a vote. ``arrived``: when it came, by ``time.perf_counter()``.

    ``correlation_id`` is empty where nobody has given the vote one.
    """

    @property
    def arrived(self) -> float: ...
    @property
    def sid(self) -> str: ...
    @property
    def command_id(self) -> str | None: ...
    @property
    def room_code(self) -> str: ...
    @property
    def answers_itself(self) -> bool:
        """Whether ``settle`` answers the voter; otherwise somebody waits for it who does, and counts and logs it."""

    @property
    def correlation_id(self) -> str: ...

    def settle(self, error: BaseException | None, correlation: str = "") -> None:
        """Called once: with None after the confirm, else with why there is none and the id to be told with it."""

    def recorded(self, recorded_at: str, frames: dict[Any, bytes]) -> bool:
        """The vote is committed; True when the voter has been told by this. ``frames`` is the batch's own, for what its
        receipts can share."""
