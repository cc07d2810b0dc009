"""Commands from nodes to workers. Each is the single argument of the Dramatiq actor named in ``ROUTES``.

Times are microseconds since the epoch by the sending node's clock.
"""

from typing import Annotated
from uuid import UUID

import msgspec

from models.wire import names
from models.wire.polls import USUAL_RULES, PollRules, PollState

FORMAT = 1  # when it rises: see models.wire

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
OptionIndex = Annotated[int, msgspec.Meta(ge=0, le=32767)]


class CastVote(msgspec.Struct, frozen=True, array_like=True):
    """One participant's current choice in one poll.

    ``seq`` orders the participant's own votes: a larger one replaces a smaller one, so redelivery and reordering stop
    mattering. ``received_at_us`` decides whether voting was open; a node never stamps a vote earlier than the opening
    it has admitted it under, so a clock that runs behind refuses nobody.
    """

    poll_id: PositiveInt
    participant_id: UUID
    option_index: OptionIndex
    received_at_us: PositiveInt
    seq: PositiveInt


class VoteBatch(msgspec.Struct, frozen=True):
    """The votes that reached one node within a few milliseconds; at most a setting's number of them (500).

    Applied as a whole, once: ``batch_id`` makes a redelivery or a repeated publish harmless. The worker answers
    ``BatchApplied`` to the reply queue of ``reply_to``, or else of ``node_id``. ``also_counts``: polls that it counts
    for in the node's account although it holds no vote of them (any more); set by the worker that had to leave those
    votes out.
    """

    batch_id: UUID
    node_id: UUID
    votes: tuple[CastVote, ...]
    format: int = FORMAT
    also_counts: tuple[int, ...] = ()
    reply_to: UUID | None = None


class CreatePoll(msgspec.Struct, frozen=True):
    """Create a poll, once per ``command_id``. Answered with ``PollCreated`` or ``CommandFailed``.

    Dropped unapplied some seconds after ``deadline_us``: the caller has been told to try again by then, and the slack
    is for clocks that differ.
    """

    command_id: UUID
    node_id: UUID
    question: str
    options: tuple[str, ...]
    creator_address: str
    deadline_us: int
    browser_id: UUID | None = None
    correlation_id: str = ""
    format: int = FORMAT
    rules: PollRules = USUAL_RULES


class ChangeState(msgspec.Struct, frozen=True):
    """Open, close or reset a poll at ``at_us``, once per ``command_id``.

    ``at_us`` is later than any state change that the node knew of, or had sent before, so changes sort by it whatever
    the clocks say.
    Answered to all nodes with ``StateChanged``, or to this one with ``CommandFailed``. ``actor`` is for the audit log.
    ``token_generation``: under which the host was admitted; refused when it has been revoked since, 0 never is.
    """

    command_id: UUID
    node_id: UUID
    poll_id: int
    new_state: PollState
    at_us: int
    actor: str = ""
    correlation_id: str = ""
    format: int = FORMAT
    token_generation: int = 0


class RevokeHosts(msgspec.Struct, frozen=True):
    """Raise a poll's token generation to ``token_generation`` and forget the browsers that host it. Idempotent.

    Answered to all nodes with ``HostsRevoked``, or to this one with ``CommandFailed``.
    """

    command_id: UUID
    node_id: UUID
    poll_id: int
    token_generation: int
    actor: str = ""
    correlation_id: str = ""
    format: int = FORMAT


class Registration(msgspec.Struct, frozen=True, array_like=True):
    """One participant as it joined. ``browser_id`` is the cookie that may resume it. ``room_code``: "" of a node of an
    earlier version."""

    poll_id: int
    participant_id: UUID
    nickname: str
    nickname_key: str
    joined_at_us: int
    browser_id: UUID | None = None
    room_code: str = ""


class RegisterParticipants(msgspec.Struct, frozen=True):
    """Store participants that have joined. Idempotent. A nickname already held by another is stored as a conflict.

    Answered to the reply queue of ``reply_to`` with ``RegistrationsStored``; a node of an earlier version has none.
    """

    registrations: tuple[Registration, ...]
    format: int = FORMAT
    reply_to: UUID | None = None


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """A participant connected or left at ``at_us``; an older sighting never replaces a newer one."""

    poll_id: int
    participant_id: UUID
    connected: bool
    at_us: int


class RecordPresence(msgspec.Struct, frozen=True):
    """Store connection status and last-seen times; only for reports, the live count is kept in Redis."""

    sightings: tuple[Sighting, ...]
    format: int = FORMAT


class RestoreRoom(msgspec.Struct, frozen=True):
    """Put a room's nicknames and snapshot back into Redis. Answered with ``RoomRestored`` or ``CommandFailed``."""

    request_id: UUID
    node_id: UUID
    room_code: str
    deadline_us: int
    format: int = FORMAT


class FetchChoices(msgspec.Struct, frozen=True):
    """Read participants' stored votes of one poll. Answered with ``ChoicesFetched`` or ``CommandFailed``."""

    request_id: UUID
    node_id: UUID
    poll_id: int
    participant_ids: tuple[UUID, ...]
    deadline_us: int
    format: int = FORMAT


class RestoreBrowser(msgspec.Struct, frozen=True):
    """Read what a cookie stands for. Answered with ``BrowserRestored`` or ``CommandFailed``."""

    request_id: UUID
    node_id: UUID
    browser_id: UUID
    deadline_us: int
    format: int = FORMAT


class ExportRows(msgspec.Struct, frozen=True):
    """Read the next page of a poll's votes, by participant id. Answered with ``RowsExported`` or ``CommandFailed``.

    ``least_version``: the newest version that whoever asks may have been shown; a standby that has not got there yet is
    not read. None when that is not known. ``token_generation``: as in ``ChangeState``.
    ``everybody``: also those who have joined and not voted; a worker of before answers with those who voted.
    """

    request_id: UUID
    node_id: UUID
    poll_id: int
    deadline_us: int
    after: UUID | None = None
    limit: int = 1000
    format: int = FORMAT
    least_version: int | None = None
    token_generation: int = 0
    everybody: bool = False


class ClaimHost(msgspec.Struct, frozen=True):
    """Store that a browser controls a poll. Idempotent. ``token_generation``: as in ``ChangeState``."""

    poll_id: int
    browser_id: UUID
    at_us: int
    format: int = FORMAT
    token_generation: int = 0


class PollFlushed(msgspec.Struct, frozen=True):
    """After a close: how many batches with this poll's votes one node has published since it started.

    Sent when all of them are settled. ``batches`` counts those that RabbitMQ confirmed. ``unclear`` are batches whose
    confirm never came: they may or may not be applied, and nobody waits for them.
    """

    poll_id: int
    closed_at_us: int
    node_id: UUID
    batches: int
    unclear: tuple[UUID, ...] = ()
    format: int = FORMAT


class NodeHeartbeat(msgspec.Struct, frozen=True):
    """A node is alive, or (``stopped``) has flushed everything and left.

    ``first``: it waits with taking votes until it is known. Never dropped, and answered with ``NodeKnown`` to the
    reply queue of ``reply_to``, or else of ``node_id``.
    """

    node_id: UUID
    name: str
    at_us: int
    stopped: bool = False
    format: int = FORMAT
    first: bool = False
    reply_to: UUID | None = None


class AuditEntry(msgspec.Struct, frozen=True):
    """One security or operational event (FR-012). ``outcome`` is ``ok``, ``refused`` or ``failed``."""

    at_us: int
    event: str
    action: str
    outcome: str
    room_code: str = ""
    actor: str = ""
    address: str = ""
    correlation_id: str = ""
    details: dict[str, str] = {}


class RecordAudit(msgspec.Struct, frozen=True):
    """Append to the audit log."""

    entries: tuple[AuditEntry, ...]
    format: int = FORMAT


Command = (
    VoteBatch
    | CreatePoll
    | ChangeState
    | RegisterParticipants
    | RecordPresence
    | RestoreRoom
    | FetchChoices
    | RestoreBrowser
    | ExportRows
    | ClaimHost
    | RevokeHosts
    | PollFlushed
    | NodeHeartbeat
    | RecordAudit
)

# command type -> (actor name, queue name)
ROUTES: dict[type, tuple[str, str]] = {
    VoteBatch: ("store_votes", names.VOTES_QUEUE),
    CreatePoll: ("create_poll", names.HOST_QUEUE),
    ChangeState: ("change_state", names.HOST_QUEUE),
    ClaimHost: ("claim_host", names.HOST_QUEUE),
    RevokeHosts: ("revoke_hosts", names.HOST_QUEUE),
    PollFlushed: ("note_flush", names.HOST_QUEUE),
    NodeHeartbeat: ("note_node", names.HOST_QUEUE),
    RegisterParticipants: ("register_participants", names.MEMBERS_QUEUE),
    RestoreRoom: ("restore_room", names.MEMBERS_QUEUE),
    FetchChoices: ("fetch_choices", names.MEMBERS_QUEUE),
    RestoreBrowser: ("restore_browser", names.MEMBERS_QUEUE),
    ExportRows: ("export_rows", names.MEMBERS_QUEUE),
    RecordPresence: ("record_presence", names.AUDIT_QUEUE),
    RecordAudit: ("record_audit", names.AUDIT_QUEUE),
}
