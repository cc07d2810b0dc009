"""Whoever connects anew goes on with the votes-per-session limit where the last connection stood."""

import time
from collections import OrderedDict
from uuid import UUID

from socket_tier.limits import Limits, SessionVotes
from socket_tier.rooms import Member

_KEPT = 20_000  # participants who have just voted and left; of more, who left first is forgotten first


class RecentVotes:
    """Gives each member its limit, and keeps those of who has left for as long as they can refuse anything."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left: OrderedDict[UUID, SessionVotes] = OrderedDict()

    def arrived(self, member: Member) -> None:
        """A socket has become one of a participant's."""
        if member.votes is None:
            member.votes = self._left.pop(member.participant_id, None) or self._limits.session_votes()

    def gone(self, member: Member) -> None:
        """A socket of a participant's is closed."""
        now = time.monotonic()
        if member.votes is None or not member.votes.in_use(now):
            return
        left = self._left
        left[member.participant_id] = member.votes
        left.move_to_end(member.participant_id)
        while len(left) > _KEPT or not next(iter(left.values())).in_use(now):
            left.popitem(last=False)
