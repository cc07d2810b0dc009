"""What this node knows of each connected socket."""

from dataclasses import dataclass, field
from uuid import UUID

from models.wire.polls import BrowserRole
from socket_tier.limits import Allowance, Bucket
from socket_tier.rooms import Member, Room


@dataclass(slots=True, eq=False)
class Session:
    """One Socket.IO connection.

    ``participants`` and ``hosting`` are by room code; ``hosting`` is the token generation that the socket hosts under,
    void once the poll has a higher one. ``roles`` is what the browser's cookie stood for when the socket
    connected. ``applied_as`` holds the participant ids of joins that were not answered. ``tentative`` are rooms that
    the socket was put back into by its cookie alone; the first explicit join of another room leaves them.
    """

    sid: str
    address: str
    browser_id: UUID | None
    new_browser: bool
    events: Bucket | None
    address_votes: Allowance
    participants: dict[str, tuple[Room, Member]] = field(default_factory=dict)
    hosting: dict[str, int] = field(default_factory=dict)
    rooms: set[str] = field(default_factory=set)
    tentative: set[str] = field(default_factory=set)
    roles: list[BrowserRole] = field(default_factory=list)
    applied_as: dict[tuple[str, str], UUID] = field(default_factory=dict)


class Sessions:
    """All sockets of this node, by Socket.IO session id."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(self, session: Session) -> None:
        self._by_sid[session.sid] = session

    def get(self, sid: str) -> Session | None:
        return self._by_sid.get(sid)

    def remove(self, sid: str) -> Session | None:
        return self._by_sid.pop(sid, None)
