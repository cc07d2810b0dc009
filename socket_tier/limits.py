"""Rate limits: how much one session, address or room may ask for. Decided from what this node knows, without I/O.

``socket_tier.shared_limits`` refills the allowances, and makes what other nodes have granted count here.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from weakref import WeakValueDictionary

from models.runtime.settings import BudgetSettings, LimitSettings
from socket_tier.addresses import limited_as
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited

_MOST_AWAKE = 20_000
_WAIT_FOR_OTHERS_S = 10.0


class SessionVotes:
    """At most ``most`` votes of one participant in any ``window_s`` seconds, exactly, whatever sockets they come by."""

    __slots__ = ("_next", "_times", "_window_s")

    def __init__(self, most: int, window_s: float) -> None:
        self._times = [-math.inf] * most  # when the last ones were cast, the oldest at ``_next``
        self._next = 0
        self._window_s = window_s

    def wait_s(self, now: float) -> float:
        """Take one; 0, or the seconds until there is one."""
        times = self._times
        oldest = self._next
        wait_s = times[oldest] + self._window_s - now
        if wait_s > 0:
            return wait_s
        times[oldest] = now
        oldest += 1
        self._next = oldest if oldest < len(times) else 0
        return 0.0

    def in_use(self, now: float) -> bool:
        """Whether a vote was cast within the last ``window_s`` seconds."""
        return self._times[self._next - 1] > now - self._window_s


class Bucket:
    """Holds at most ``burst`` tokens, refilled with ``per_s`` a second when one is taken."""

    __slots__ = ("_budget", "_filled_at", "_tokens")

    def __init__(self, budget: BudgetSettings) -> None:
        self._budget = budget
        self._tokens = float(budget.burst)
        self._filled_at = -math.inf

    def wait_s(self, now: float) -> float:
        """Take one; 0, or the seconds until there is one."""
        budget = self._budget
        self._tokens = min(budget.burst, self._tokens + (now - self._filled_at) * budget.per_s)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / budget.per_s


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit for addresses or rooms, under the name that refusals show."""

    name: str
    burst: int
    per_s: float

    @property
    def window_s(self) -> int:
        """Whole seconds that fill an empty allowance; all nodes together grant ``burst`` in any of these."""
        return max(1, round(self.burst / self.per_s))


class Allowance:
    """What one address or room has left of one limit.

    Whoever takes one checks ``left >= 1 or wake()`` and then lowers ``left`` by one: a vote can't afford more. An
    allowance that is full and long unused sleeps, with nothing ``left``, and costs nothing; ``wake`` fills it. ``debt``
    is what was granted and not yet counted over all nodes; while it can't be counted there (``overdrawn``) nothing more
    is granted here.
    """

    __slots__ = ("__weakref__", "_awake", "_before", "_used_at", "debt", "left", "overdrawn", "policy", "subject")

    def __init__(self, policy: Policy, subject: str, awake: "dict[Allowance, None]") -> None:
        self.policy = policy
        self.subject = subject
        self.left = 0.0
        self.debt = 0
        self.overdrawn = False
        self._awake = awake
        self._before = 0.0  # ``left`` at the last refill
        self._used_at = -math.inf

    def wake(self) -> bool:
        """Whether it was asleep; then it is full now."""
        if self in self._awake:
            return False
        self._awake[self] = None
        if len(self._awake) > _MOST_AWAKE:
            next(iter(self._awake)).sleep()  # the one awake for longest
        self.left = self._before = float(self.policy.burst)
        self._used_at = -math.inf
        return True

    def sleep(self) -> None:
        self._awake.pop(self, None)
        self.left = 0.0
        self.debt = 0
        self.overdrawn = False

    def refill(self, elapsed_s: float, now: float) -> None:
        """Add up what was granted since the last time, and give what that time gives."""
        policy = self.policy
        if self._add_up():
            self._used_at = now
        elif self.left >= policy.burst and now - self._used_at > policy.window_s:
            self.sleep()
            return
        self.left = 0.0 if self.overdrawn else min(policy.burst, self.left + policy.per_s * elapsed_s)
        self._before = self.left

    def overdraw(self) -> None:
        """All nodes together have granted all there is: nothing more until the debt is paid."""
        self._add_up()
        self.overdrawn = True
        self.left = self._before = 0.0

    def _add_up(self) -> int:
        granted = round(self._before - self.left)
        self._before = self.left
        self.debt = min(self.debt + granted, self.policy.burst)  # more is never in the shared counter's window
        return granted

    def wait_s(self) -> float:
        """Seconds until it is worth asking again."""
        missing = self.debt if self.overdrawn else 1 - self.left
        return max(missing / self.policy.per_s, 1.0 if self.overdrawn else 0.1)


def _policies(settings: LimitSettings) -> dict[str, Policy]:
    """The limits for addresses and rooms, by their names in the settings."""
    return {
        name: Policy(name.replace("_", "-"), budget.burst, budget.per_s)
        for name in settings.__struct_fields__
        if isinstance(budget := getattr(settings, name), BudgetSettings)
    }


class Limits:
    """The rate limits of one node. With ``unlimited`` nothing is refused."""

    def __init__(self, settings: LimitSettings, metrics: NodeMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._awake: dict[Allowance, None] = {}  # in the order in which they woke
        self._known: WeakValueDictionary[tuple[str, str], Allowance] = WeakValueDictionary()
        self._open_sessions: Counter[str] = Counter()
        self._refilled_at = time.monotonic()
        self._policies = _policies(settings)
        endless = Policy("none", 1, 1.0)
        self._endless = Allowance(endless, "", self._awake)
        self._endless.left = math.inf

    def change(self, settings: LimitSettings) -> None:
        """Other limits, at once for addresses and rooms; a session's own are those of its connect."""
        self._settings = settings
        self._policies = _policies(settings)
        for (limit, _), allowance in self._known.items():
            allowance.policy = self._policies[limit]

    def session_votes(self) -> SessionVotes | None:
        """A participant's own votes; None when votes aren't limited."""
        if self._settings.unlimited:
            return None
        return SessionVotes(self._settings.votes_per_session, self._settings.votes_per_session_window_s)

    def session_events(self) -> Bucket | None:
        """A session's own events; None when they aren't limited."""
        return None if self._settings.unlimited else Bucket(self._settings.events_per_session)

    def address_votes(self, address: str) -> Allowance:
        """The votes of everybody behind one address."""
        return self._allowance("votes_per_address", limited_as(address))

    def room_votes(self, room_code: str) -> Allowance:
        """The votes of everybody in one room."""
        return self._allowance("votes_per_room", room_code)

    def vote(self, own: SessionVotes | None, address: Allowance, room: Allowance) -> None:
        """:raises RateLimited:"""
        self._require(address)
        self._require(room)
        if own is not None:
            self._check(own.wait_s(time.monotonic()), "votes-per-session")
        address.left -= 1
        room.left -= 1

    def event(self, own: Bucket | None) -> None:
        """Anything a session sends that isn't a vote on the quick way.

        :raises RateLimited:
        """
        if own is not None:
            self._check(own.wait_s(time.monotonic()), "events-per-session")

    def connect(self, address: str) -> None:
        """:raises RateLimited: too many of late, or too many that are open"""
        subject = limited_as(address)
        most = self._settings.open_sessions_per_address
        if self._open_sessions[subject] >= most and not self._settings.unlimited:
            raise self._over(_WAIT_FOR_OTHERS_S, "open-sessions-per-address", most, int(_WAIT_FOR_OTHERS_S))
        self._take("connections_per_address", subject)

    def session_opened(self, address: str) -> None:
        """An Engine.IO session begins; ``session_closed`` follows."""
        self._open_sessions[limited_as(address)] += 1

    def session_closed(self, address: str) -> None:
        subject = limited_as(address)
        self._open_sessions[subject] -= 1
        if not self._open_sessions[subject]:
            del self._open_sessions[subject]

    @property
    def open_connections_per_address(self) -> float:
        """How many TCP connections one address may have open at this node."""
        return math.inf if self._settings.unlimited else self._settings.open_connections_per_address

    @property
    def rooms_per_session(self) -> float:
        return math.inf if self._settings.unlimited else self._settings.rooms_per_session

    def join(self, address: str) -> None:
        """:raises RateLimited:"""
        self._take("joins_per_address", limited_as(address))

    def new_participant(self, room_code: str) -> None:
        """Somebody who has not been in the room before; who comes back is never kept out by a rush of others.

        :raises RateLimited:
        """
        self._take("joins_per_room", room_code)

    def create_poll(self, address: str) -> None:
        """:raises RateLimited:"""
        subject = limited_as(address)
        self._require(self._allowance("polls_per_address_a_day", subject))
        self._take("polls_per_address", subject)
        self._take("polls_per_address_a_day", subject)

    def request(self, address: str) -> None:
        """A REST call, or a look for a room that this node doesn't know.

        :raises RateLimited:
        """
        self._take("requests_per_address", limited_as(address))

    def read_room(self, room_code: str) -> None:
        """A REST call that reads a room.

        :raises RateLimited:
        """
        self._take("requests_per_room", room_code)

    def refill(self, now: float) -> None:
        """Give every allowance what the time since the last call gives."""
        elapsed_s, self._refilled_at = now - self._refilled_at, now
        for allowance in list(self._awake):
            allowance.refill(elapsed_s, now)
        self._metrics.gauge("limits.awake", len(self._awake))

    def debtors(self, most: int) -> list[Allowance]:
        """Those whose grants other nodes should hear of first: relative to their limits, the largest."""
        return nlargest(most, self._indebted(), key=lambda allowance: allowance.debt / allowance.policy.burst)

    def forgive(self) -> None:
        """The shared counters are out of reach: this node's own limits hold alone.

        Debts of a long outage, paid at its end, would refuse those who kept to the limit all the time.
        """
        for allowance in self._awake:
            allowance.debt = 0
            allowance.overdrawn = False

    def _indebted(self) -> Iterable[Allowance]:
        return (allowance for allowance in self._awake if allowance.debt)

    def _allowance(self, limit: str, subject: str) -> Allowance:
        if self._settings.unlimited:
            return self._endless
        key = (limit, subject)
        allowance = self._known.get(key)
        if allowance is None:
            allowance = self._known[key] = Allowance(self._policies[limit], subject, self._awake)
        return allowance

    def _take(self, limit: str, subject: str) -> None:
        allowance = self._allowance(limit, subject)
        self._require(allowance)
        allowance.left -= 1

    def _require(self, allowance: Allowance) -> None:
        if allowance.left < 1 and not allowance.wake():
            policy = allowance.policy
            raise self._over(allowance.wait_s(), policy.name, policy.burst, policy.window_s)

    def _check(self, wait_s: float, name: str) -> None:
        if wait_s > 0:
            raise self._over(wait_s, name)

    def _over(self, wait_s: float, limit: str, most: int = 0, window_s: int = 0) -> RateLimited:
        self._metrics.count(f"limits.refused.{limit}")
        return RateLimited(wait_s, limit, most, window_s)
