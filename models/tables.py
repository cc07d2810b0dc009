"""The tables as peewee models: what each column holds. Migrations make them; a test compares the two.

The models are bound to no database: queries are run with ``Database.run``. What is written per vote is SQL beside the
function that runs it. ``*_us`` are microseconds since the epoch; ``*_at`` are timestamps with a time zone.
"""

from peewee import (
    BigIntegerField,
    BooleanField,
    CompositeKey,
    Field,
    IntegerField,
    Model,
    SmallIntegerField,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import ArrayField, BinaryJSONField, DateTimeTZField, IdentityField

# Tables ("nodes") and columns ("polls.final") that the database has and this version uses no more. The next one may
# take them away: scripts/migration-check refuses that for what the version in service hasn't named here.
RETIRED: frozenset[str] = frozenset()


class Table(Model):
    """Names of tables are given, never derived from the class."""

    class Meta:
        legacy_table_names = False


class BigIdentityField(IdentityField):
    """bigint GENERATED ALWAYS AS IDENTITY."""

    field_type = "BIGINT GENERATED ALWAYS AS IDENTITY"


class PollRow(Table):
    """One poll. ``version`` rises with every change of votes or state, under this row's lock.

    ``id`` is random (``poll_store.new_poll_id``); the column's own sequence is for versions of before alone.
    ``state_changed_at_us`` orders state changes for nodes; ``closed_at_us`` is set while the poll is closed.
    ``changed_at_rest_us``: when anything but the votes of an open poll last changed, by a worker's clock.
    """

    id: Field = BigIdentityField(primary_key=True)
    command_id: Field = UUIDField(unique=True)
    room_code: Field = TextField(unique=True)
    question: Field = TextField()
    options: Field = ArrayField(TextField, index=False)
    state: Field = TextField()
    version: Field = BigIntegerField()
    final: Field = BooleanField(default=False)
    created_at: Field = DateTimeTZField()
    expires_at: Field = DateTimeTZField()
    state_changed_at_us: Field = BigIntegerField()
    opened_at_us: Field = BigIntegerField(default=0)
    closed_at_us: Field = BigIntegerField(null=True)
    changed_at_rest_us: Field = BigIntegerField()
    reopened_count: Field = IntegerField(default=0)
    token_generation: Field = IntegerField(default=1)
    creator_address: Field = TextField(default="")
    results: Field = TextField(default="always")
    vote_change: Field = BooleanField(default=True)
    close_after_s: Field = IntegerField(null=True)
    max_participants: Field = IntegerField(null=True)

    class Meta:
        table_name = "polls"


class VotingPeriodRow(Table):
    """A vote counts that was received within one: ``opened_at_us <= received < closed_at_us`` (null: still open)."""

    poll_id: Field = BigIntegerField()
    ordinal: Field = SmallIntegerField()
    opened_at_us: Field = BigIntegerField()
    closed_at_us: Field = BigIntegerField(null=True)

    class Meta:
        table_name = "voting_periods"
        primary_key = CompositeKey("poll_id", "ordinal")


class StateChangeRow(Table):
    """The log that a poll's state and voting periods follow from, sorted by ``at_us``, then ``id``.

    ``recorded_at``: by the database's clock, under the poll's lock; a period that has an end begins then.
    """

    id: Field = BigIdentityField(primary_key=True)
    poll_id: Field = BigIntegerField()
    command_id: Field = UUIDField(unique=True)
    at_us: Field = BigIntegerField()
    new_state: Field = TextField()
    actor: Field = TextField(default="")
    recorded_at: Field = DateTimeTZField()

    class Meta:
        table_name = "state_changes"


class ParticipantRow(Table):
    """Somebody who joined. Without a nickname: a stub, made by a vote that overtook the registration.

    ``nickname_key`` is unique in a poll; null in a stub and for a nickname that another already held.
    """

    participant_id: Field = UUIDField(primary_key=True)
    poll_id: Field = BigIntegerField()
    nickname: Field = TextField(null=True)
    nickname_key: Field = TextField(null=True)
    browser_id: Field = UUIDField(null=True)
    connected: Field = BooleanField(default=True)
    joined_at: Field = DateTimeTZField()
    last_seen_at: Field = DateTimeTZField()

    class Meta:
        table_name = "participants"


class VoteRow(Table):
    """A participant's current choice. ``submitted_at``: when a node received it; ``first_voted_at``: the first one."""

    poll_id: Field = BigIntegerField()
    participant_id: Field = UUIDField()
    seq: Field = BigIntegerField()
    first_voted_at: Field = DateTimeTZField()
    submitted_at: Field = DateTimeTZField()
    option_index: Field = SmallIntegerField()

    class Meta:
        table_name = "votes"
        primary_key = CompositeKey("poll_id", "participant_id")


class TallyRow(Table):
    """One total per option, in option order. Equals the votes table at every commit."""

    poll_id: Field = BigIntegerField(primary_key=True)
    votes: Field = ArrayField(BigIntegerField, index=False)

    class Meta:
        table_name = "tallies"


class RejectedVoteRow(Table):
    """A vote that was acked and then decided not to count, and why."""

    poll_id: Field = BigIntegerField()
    participant_id: Field = UUIDField()
    seq: Field = BigIntegerField()
    option_index: Field = SmallIntegerField()
    code: Field = TextField()
    rejected_at: Field = DateTimeTZField()

    class Meta:
        table_name = "rejected_votes"
        primary_key = CompositeKey("poll_id", "participant_id", "seq")


class AppliedBatchRow(Table):
    """A batch that took effect: a redelivery of it changes nothing."""

    batch_id: Field = UUIDField(primary_key=True)
    node_id: Field = UUIDField()
    applied_at: Field = DateTimeTZField()

    class Meta:
        table_name = "applied_batches"


class PollBatchesRow(Table):
    """How many of a node's batches with votes of a poll were applied."""

    poll_id: Field = BigIntegerField()
    node_id: Field = UUIDField()
    batches: Field = BigIntegerField()

    class Meta:
        table_name = "poll_batches"
        primary_key = CompositeKey("poll_id", "node_id")


class PollFlushRow(Table):
    """A node's word that, by the close at ``closed_at_us``, it had published this many batches of a poll's votes."""

    poll_id: Field = BigIntegerField()
    node_id: Field = UUIDField()
    closed_at_us: Field = BigIntegerField()
    batches: Field = BigIntegerField()
    unclear: Field = ArrayField(UUIDField, index=False)
    reported_at_us: Field = BigIntegerField(null=True)

    class Meta:
        table_name = "poll_flushes"
        primary_key = CompositeKey("poll_id", "node_id")


class NodeRow(Table):
    """One incarnation of a node and its last heartbeat. ``stopped``: it flushed everything and left."""

    node_id: Field = UUIDField(primary_key=True)
    name: Field = TextField()
    last_seen_at_us: Field = BigIntegerField()
    stopped: Field = BooleanField(default=False)

    class Meta:
        table_name = "nodes"


class LeftOutPollRow(Table):
    """A poll whose votes were left out when a batch was applied, since its row was locked."""

    batch_id: Field = UUIDField()
    poll_id: Field = BigIntegerField()

    class Meta:
        table_name = "left_out_polls"
        primary_key = CompositeKey("batch_id", "poll_id")


class QueueConsumerRow(Table):
    """What one consumer of a command queue says of the commands that it holds (``models.drain_store``)."""

    consumer_id: Field = UUIDField(primary_key=True)
    queue: Field = TextField()
    seen_at: Field = DateTimeTZField()
    returned: Field = BigIntegerField()
    drained: Field = BigIntegerField()

    class Meta:
        table_name = "queue_consumers"


class QueueDrainRow(Table):
    """The newest question to a queue's consumers."""

    queue: Field = TextField(primary_key=True)
    asked: Field = BigIntegerField()

    class Meta:
        table_name = "queue_drains"


class HostRow(Table):
    """A browser that controls a poll."""

    poll_id: Field = BigIntegerField()
    browser_id: Field = UUIDField()
    claimed_at: Field = DateTimeTZField()

    class Meta:
        table_name = "hosts"
        primary_key = CompositeKey("poll_id", "browser_id")


class AuditRow(Table):
    """One security or operational event (FR-012)."""

    id: Field = BigIdentityField(primary_key=True)
    at: Field = DateTimeTZField()
    event: Field = TextField()
    action: Field = TextField(default="")
    outcome: Field = TextField(default="ok")
    room_code: Field = TextField(default="")
    actor: Field = TextField(default="")
    address: Field = TextField(default="")
    correlation_id: Field = TextField(default="")
    details: Field = BinaryJSONField(default=dict)

    class Meta:
        table_name = "audit_log"


class RetiredPollRow(Table):
    """A poll past its retention whose votes and participants are still to be archived and deleted.

    ``document``: the poll, its totals, voting periods and state changes; ``archived_at``: null until a copy is safe.
    """

    poll_id: Field = BigIntegerField(primary_key=True)
    room_code: Field = TextField()
    document: Field = BinaryJSONField(index=False)
    retired_at: Field = DateTimeTZField()
    archived_at: Field = DateTimeTZField(null=True)

    class Meta:
        table_name = "retired_polls"


TABLES: tuple[type[Table], ...] = (
    PollRow,
    VotingPeriodRow,
    StateChangeRow,
    ParticipantRow,
    VoteRow,
    TallyRow,
    RejectedVoteRow,
    AppliedBatchRow,
    PollBatchesRow,
    PollFlushRow,
    NodeRow,
    LeftOutPollRow,
    QueueConsumerRow,
    QueueDrainRow,
    HostRow,
    AuditRow,
    RetiredPollRow,
)
