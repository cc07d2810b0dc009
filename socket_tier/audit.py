"""Security events: to the log at once, to the audit table by way of the workers, the first thing to be shed."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.runtime.hashed_addresses import hashed_address
from models.runtime.settings import AuditSettings, BudgetSettings
from models.wire.commands import AuditEntry, RecordAudit
from socket_tier.commands import Commands
from socket_tier.limits import Bucket
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited, Refused

log = logging.getLogger("votemill.security")

_KEPT = 2_000
_PER_MESSAGE = 200
_MALFORMED = frozenset({400, 413, 415})


def _printable(text: str) -> str:
    """Part of a path, for example: with a NUL in it Postgres would refuse the entry and all that travel with it."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


_What = tuple[str, str, str, str]


@dataclass(slots=True)
class _Repeated:
    """The first of events that are alike, and how many have come since it was written."""

    first: AuditEntry
    noted_at: float
    more: int = 0


class Audit:
    """Collects entries; ``send`` is called about once a second.

    Of what is refused, the first of events that are alike (event, action, address, room) is written at once; the others
    are counted, and written as one every ``coalesce_s`` seconds. All of it has a budget, so that an attack fills no
    disk: beyond it there is one entry for all of ``coalesce_s``, with how many there were of each event. What was done
    has a budget of its own, so that no attack hides the deeds of hosts and administrators. Beyond ``_KEPT`` entries
    waiting for the broker the oldest are dropped from the table, not from the log.
    """

    def __init__(
        self,
        commands: Commands,
        settings: AuditSettings,
        metrics: NodeMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commands = commands
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        budget = BudgetSettings(burst=settings.entries_burst, per_s=settings.entries_per_s)
        self._budgets = {"ok": Bucket(budget), "refused": Bucket(budget)}
        self._waiting: deque[AuditEntry] = deque(maxlen=_KEPT)
        self._repeated: dict[_What, _Repeated] = {}
        self._over_budget: Counter[str] = Counter()
        self._summed_up_at = clock()

    def hashed(self, address: str) -> str:
        """An address as it may be kept."""
        return hashed_address(self._settings.address_key, address)

    def note(
        self,
        event: str,
        *,
        outcome: str,
        action: str = "",
        room_code: str = "",
        actor: str = "",
        address: str = "",
        **details: str,
    ) -> None:
        """Record that something was done (``ok``) or tried (``refused``). ``actor`` is an id, never a name."""
        action = _printable(action)
        what = (event, action, address, room_code)
        alike = self._repeated.get(what)
        if alike is not None:
            alike.more += 1
            return
        now = self._clock()
        if self._budgets[outcome].wait_s(now) > 0:
            self._over_budget[event] += 1
            return
        entry = AuditEntry(
            now_us(), event, action, outcome, room_code, actor, self.hashed(address), correlation_id.get(), details
        )
        if outcome == "refused":
            self._repeated[what] = _Repeated(entry, now)
        self._write(entry)

    async def record(self, event: str, *, outcome: str, action: str, address: str, **details: str) -> None:
        """Put on record what must not be missing, whatever the budget. Returning means that it is durable.

        :raises Refused: it is not; safe to do again
        """
        action, details = _printable(action), {name: _printable(text) for name, text in details.items()}
        entry = AuditEntry(
            now_us(), event, action, outcome, "", "", self.hashed(address), correlation_id.get(), details
        )
        await self._commands.send(RecordAudit((entry,)))
        self._log(entry)

    def refusal(self, refusal: Refused, address: str) -> None:
        """Record what the edge refuses for its form or for its frequency, not what merely can't be done now."""
        if isinstance(refusal, RateLimited):
            self.note("rate_limited", outcome="refused", action=refusal.limit, address=address)
        elif refusal.status in _MALFORMED:
            self.note("invalid_input", outcome="refused", action=refusal.code, address=address)

    async def send(self) -> None:
        """Sum up what is due, and hand on what waits. Called again it goes on where the broker refused."""
        self._sum_up(self._clock())
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _PER_MESSAGE))]
            try:
                await self._commands.send(RecordAudit(tuple(some)))
            except Refused:
                self._metrics.count("audit.not_stored", len(some))
                log.info("audit_entries_not_stored", extra={"entries": len(some)})
                return

    def _sum_up(self, now: float) -> None:
        due = [what for what, alike in self._repeated.items() if now - alike.noted_at >= self._settings.coalesce_s]
        for what in due:
            alike = self._repeated.pop(what)
            if alike.more:
                self._write(
                    msgspec.structs.replace(
                        alike.first, at_us=now_us(), details={**alike.first.details, "repeated": str(alike.more)}
                    )
                )
        if self._over_budget and now - self._summed_up_at >= self._settings.coalesce_s:
            details = {event: str(count) for event, count in self._over_budget.most_common()}
            self._write(AuditEntry(now_us(), "audit_over_budget", "", "refused", details=details))
            self._over_budget.clear()
            self._summed_up_at = now

    def _write(self, entry: AuditEntry) -> None:
        self._log(entry)
        self._waiting.append(entry)

    def _log(self, entry: AuditEntry) -> None:
        fields = ("outcome", "action", "room_code", "actor", "address", "details")
        shown = {name: value for name in fields if (value := getattr(entry, name))}
        log.log(logging.INFO if entry.outcome == "ok" else logging.WARNING, entry.event, extra=shown)
