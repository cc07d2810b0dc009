"""Security events: to the log at once, to the audit table by way of the workers, the first thing to be shed."""

import logging
import time
from collections import deque

from models.runtime.logs import correlation_id
from models.wire.commands import AuditEntry, RecordAudit
from socket_tier.commands import Commands
from socket_tier.refusals import Refused
from socket_tier.vote_buffer import now_us

log = logging.getLogger("votemill.security")

_KEPT = 2_000
_REPEAT_S = 1.0
_ADDRESSES_KEPT = 10_000
_PER_MESSAGE = 200


class Audit:
    """Collects entries; ``send`` is called about once a second. Beyond ``_KEPT`` waiting the oldest are dropped."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._waiting: deque[AuditEntry] = deque(maxlen=_KEPT)
        self._noted: dict[tuple[str, str, str], float] = {}

    def note(
        self, event: str, *, outcome: str, action: str = "", room_code: str = "", actor: str = "", address: str = ""
    ) -> None:
        """Record that something was tried. ``actor`` is an id, never a name."""
        if not self._is_news((event, address, room_code)):
            return
        fields = {"outcome": outcome, "action": action, "room_code": room_code, "actor": actor, "address": address}
        log.warning(event, extra=fields)
        self._waiting.append(
            AuditEntry(now_us(), event, action, outcome, room_code, actor, address, correlation_id.get())
        )

    def _is_news(self, what: tuple[str, str, str]) -> bool:
        """Once a second per kind, address and room: an attack must not become a flood of our own."""
        now = time.monotonic()
        if now - self._noted.get(what, float("-inf")) < _REPEAT_S:
            return False
        if len(self._noted) >= _ADDRESSES_KEPT:
            self._noted.clear()
        self._noted[what] = now
        return True

    async def send(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _PER_MESSAGE))]
            try:
                await self._commands.send(RecordAudit(tuple(some)))
            except Refused:
                log.info("audit_entries_dropped", extra={"entries": len(some)})
                return
