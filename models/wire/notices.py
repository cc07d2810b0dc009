"""What workers and nodes tell nodes over AMQP: answers to one node, and notices to all of them.

One JSON object per message, tagged with its type. A node that doesn't know a type ignores the message.
"""

from uuid import UUID

import msgspec

from models.wire.polls import BrowserRole, PollSnapshot, PollState


class PollCreated(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``CreatePoll``."""

    request_id: UUID
    poll: PollSnapshot


class StateChanged(msgspec.Struct, frozen=True, tag=True):
    """To all nodes: a state change is committed. ``request_id`` is the command's id."""

    request_id: UUID
    poll: PollSnapshot
    previous_state: PollState
    correlation_id: str = ""


class HostsRevoked(msgspec.Struct, frozen=True, tag=True):
    """To all nodes: a poll's host tokens of a lower generation than the snapshot's are void, and its host browsers too.

    ``request_id`` is the command's id.
    """

    request_id: UUID
    poll: PollSnapshot


class DatabaseRestored(msgspec.Struct, frozen=True, tag=True):
    """To all nodes: the database is as it was at an earlier moment, and Redis has forgotten what came from it."""

    at_us: int


class PollClosing(msgspec.Struct, frozen=True, tag=True):
    """To all nodes, from the node that received a close: votes received after ``at_us`` are refused from now on.

    Sent as soon as the command is durable, so that a close holds everywhere while Postgres is away.
    """

    poll_id: int
    room_code: str
    at_us: int
    correlation_id: str = ""


class RegistrationsStored(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``RegisterParticipants``: these are committed, and after that Redis has got their nicknames.

    Without a promise that it arrives: a node that does not hear it keeps in mind what it need not.
    """

    participant_ids: tuple[UUID, ...]


class RoomRestored(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``RestoreRoom``: the snapshot that now lies in Redis; None means that there is no such poll."""

    request_id: UUID
    poll: PollSnapshot | None


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A participant's stored vote: ``option_index`` -1 and ``seq`` 0 without one."""

    participant_id: UUID
    option_index: int
    seq: int


class ChoicesFetched(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``FetchChoices``, one entry per participant asked for."""

    request_id: UUID
    choices: tuple[Choice, ...]


class BrowserRestored(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``RestoreBrowser``; empty when the cookie stands for nothing yet."""

    request_id: UUID
    roles: tuple[BrowserRole, ...]


class ExportedVote(msgspec.Struct, frozen=True, array_like=True):
    """One participant's stored vote; times in microseconds since the epoch. None of somebody who has not voted."""

    participant_id: UUID
    nickname: str | None
    option_index: int | None
    first_voted_at_us: int | None
    last_voted_at_us: int | None


class RowsExported(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``ExportRows``. Fewer rows than the limit asked for: these were the last."""

    request_id: UUID
    rows: tuple[ExportedVote, ...]


class Rejection(msgspec.Struct, frozen=True, array_like=True):
    """A vote of a batch that was decided not to count: its place in the batch, a machine code and the text to show.

    Whose vote it was, and its ``seq``, stand here too, for a node that has forgotten the batch. ``stands``: in a poll
    whose votes can't be changed, the option that this participant's vote is for; -1 where that is not known or not why.
    """

    index: int
    code: str
    error: str
    participant_id: UUID | None = None
    option_index: int = -1
    room_code: str = ""
    seq: int = 0
    stands: int = -1


class BatchApplied(msgspec.Struct, frozen=True, tag=True):
    """Answer to ``VoteBatch``, after the commit. Votes not in ``rejected`` are recorded.

    ``retried``: the batch came to a worker a second time, or was stored at a second try.
    """

    batch_id: UUID
    recorded_at_us: int
    rejected: tuple[Rejection, ...] = ()
    retried: bool = False


class NodeKnown(msgspec.Struct, frozen=True, tag=True):
    """Answer to a node's first ``NodeHeartbeat``: closed polls wait for it from now on. ``request_id``: the node's."""

    request_id: UUID


class CommandFailed(msgspec.Struct, frozen=True, tag=True):
    """Answer to a command that was not applied. ``retry_after_s`` above 0 means: come back later."""

    request_id: UUID
    code: str
    error: str
    retry_after_s: float = 0


class WorkerHeartbeat(msgspec.Struct, frozen=True, tag=True):
    """To all nodes, about once a second, from each worker process.

    ``database`` is ``connected`` or ``disconnected``, as seen by this worker's own last statement or probe.
    ``waited_s``: how long the command that waited longest, of those begun since the last heartbeat, had waited for its
    worker; ``cpu_share``: of one core since then. ``clock_error_us``: how far ``at_us`` may be from the shared time,
    -1 when the worker does not know the time. Workers of earlier versions tell none of these.
    """

    worker: str
    at_us: int
    queues: tuple[str, ...]
    database: str
    database_ms: float
    redis: str = "connected"
    waited_s: float | None = None
    cpu_share: float | None = None
    version: str = ""
    clock_error_us: float | None = None


Notice = (
    PollCreated
    | StateChanged
    | HostsRevoked
    | DatabaseRestored
    | PollClosing
    | RegistrationsStored
    | RoomRestored
    | ChoicesFetched
    | BrowserRestored
    | RowsExported
    | BatchApplied
    | NodeKnown
    | CommandFailed
    | WorkerHeartbeat
)
