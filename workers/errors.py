"""How a command can end other than well."""


class GiveBack(Exception):
    """Nothing was decided here: the message returns to its queue unharmed, for any worker."""


class StepAside(Exception):
    """Not now: the message stays with this worker and is tried again after ``pause_s`` seconds, behind the others.

    With ``park_s`` it leaves for that many seconds instead: it goes through the delay queue, and those behind it in
    the command queue, which this worker's prefetch kept from it, come in.
    """

    def __init__(self, reason: str, pause_s: float = 0.2, park_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.park_s = park_s


class NeverValid(Exception):
    """This command can't ever be applied: it goes to the dead-letter queue with ``reason``, a machine code."""

    def __init__(self, reason: str, error: object = "") -> None:
        super().__init__(f"{reason}: {error}")
        self.reason = reason
