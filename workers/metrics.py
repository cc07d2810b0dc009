"""Every metric of the workers, with what it means. Names must stand here before they are used."""

from dramatiq.common import q_name

from models.database import UNAVAILABLE_REASONS
from models.runtime import metrics, process_levels
from models.runtime.metrics import Metrics, Names
from models.runtime.settings import Settings
from models.wire import names

COUNTERS = {
    **metrics.COUNTERS,
    "votes.stored": "Votes written and committed, repeats included.",
    "votes.rejected": "Votes decided not to count (late, unknown poll); a rise means clients vote after the close.",
    "votes.poisoned": "Votes that the database refuses; each lies in the dead-letter queue. Any is worth a look.",
    "votes.batches": "Vote batches applied.",
    "votes.transactions": "Transactions that applied them; far below votes.batches means merging works.",
    "votes.bisected": "Batches split to find a poison vote.",
    "votes.answered_late": "Rejections sent to the voter through Redis, since the node that took the vote is gone.",
    "choices.failed": "Rounds of writing choices to Redis that failed; they are repeated.",
    "choices.overflow": "Times that Redis forgets a poll's choices, since too many waited; resumes ask the database.",
    "registrations.stored": "Participants written.",
    "registrations.conflicts": "Nicknames found taken when the participant was stored.",
    "polls.created": "Polls stored.",
    "states.changed": "State changes applied.",
    "polls.closed_by_time": "Polls closed because their voting time was over.",
    "requests.refused": "Requests answered with `come back later`; a rise means the database or Redis is away.",
    "requests.expired": "Requests dropped unapplied because their caller had stopped waiting.",
    "messages.done": "Commands acked after they took effect.",
    "messages.given_back": "Commands returned to their queue unharmed (outage longer than the hold, shutdown).",
    "messages.stepped_aside": "Commands put behind others in this worker, because the database is away or a lane full.",
    "messages.parked": "Commands put into the delay queue, as the database is away or a poll locked; others get past.",
    "messages.retried": "Commands that failed for a reason nobody expected; each has a traceback in the log.",
    "messages.dead": "Commands moved to a dead-letter queue; scripts/dead-letters shows why.",
    "messages.stale_acks": "Acks dropped because the channel that delivered the message is gone; it comes again.",
    **{
        f"database.unavailable.{reason}": f"Calls that failed without the data's fault: {reason}."
        for reason in UNAVAILABLE_REASONS
    },
    "errors.database.client": "Calls that the database refused for the sake of what it was given.",
    "errors.database.server": "Calls that failed because the database was away, restarting, full or in a deadlock.",
    "errors.database.timeout": "Calls that failed because a connection or an answer was waited for in vain.",
    "database.refused": "Calls refused by the open circuit breaker without asking the database.",
    "database.breaker_opened": "How often the breaker opened.",
    "reads.replica": "Pages of exports that the standby answered.",
    "reads.primary": "Those that the primary answered in its place: it is not in use, or lacks what was shown already.",
    "notices.sent": "Notices handed to RabbitMQ.",
    "notices.dropped": "Notices lost because the outbox was full or they grew too old; voters miss vote-recorded.",
    "notices.unconfirmed": "Notices that had to be confirmed and were not in time; their command is tried again.",
    "results.published": "Snapshots stored in Redis and emitted.",
    "results.outdated": "Snapshots not published because a newer one was there already.",
    "results.failed": "Publishing rounds that failed because Redis or the database was away; they are repeated.",
    "results.overflow": "Changed polls not remembered because too many were waiting; the sweep finds them.",
    "results.restored": "Rooms put back into an emptied Redis.",
    "sweep.found": "Rooms whose publication had been lost, found by the sweep.",
    "heartbeats.dropped": "Heartbeats of nodes not stored because the database was away; a newer one follows.",
    "votes.polls_locked": "Polls found locked by somebody else; their votes are stored later, those of others at once.",
    "finals.settled": "Polls whose totals became final, or were corrected by a straggler.",
    "finals.reminded": "Closed polls of which the nodes were told again, since a node has not reported its batches.",
    "secrets.changed": "Times that other secrets were taken over.",
    "secrets.failed": "Times that the store of secrets was away or held what can't be used; those of before stay.",
    "retention.polls": "Polls past their retention that are gone with all that belonged to them.",
    "retention.archived": "Polls of which a copy was put into the archive first.",
    "retention.rows": "Rows deleted: of such polls, old participants, audit entries and bookkeeping.",
    "retention.failed": "Polls that could not be archived and therefore stay; the log says why.",
    "restores.not_cached": "Rooms, cookies and nicknames that the database has but Redis, which is away, has not got.",
    "queues.not_read": "Looks at RabbitMQ's queues that failed; their levels are unknown until the next.",
    "tallies.checked": "Polls whose votes were counted again; 0 for long means that nobody looks.",
    "tallies.wrong": "Polls whose tally was not what their votes say, each time it is found: scripts/recount --fix.",
    "periodic.failed": "Background rounds that failed unexpectedly; each has a traceback in the log.",
}

# The same wherever it is looked up: these levels are no instance's.
QUEUE_GAUGES = {
    f"queues.{queue}.{name}": text.format(queue=queue)
    for queue in names.COMMAND_QUEUES
    for name, text in {
        "messages": "Commands that wait in `{queue}`, those that workers hold already left out.",
        "consumers": "Worker processes that take from `{queue}`; at 0 nothing there is done.",
        "backlog_s": "Seconds since `{queue}` was last seen empty; 0 while it is.",
        "dead": "Commands in `{queue}.dead`, which wait for a person: scripts/dead-letters.",
    }.items()
}

GAUGES = {
    **QUEUE_GAUGES,
    **process_levels.GAUGES,
    "finals.waiting_s": "Seconds since the close of the poll that has waited longest for its final totals.",
    "votes.waiting": "Votes that this worker holds and has not committed; grows during an outage.",
    "results.waiting": "Changed polls that wait to be published.",
    "database.breaker_open": "1 while the breaker is open or on trial, else 0.",
    "database.connections": "Connections in use; near pool_size means calls are about to wait.",
    "database.pool_share": "Of database.pool_size in use; near 1 calls wait for a connection.",
    "replica.in_use": "1 while the standby may be read, else 0; unset without a standby.",
    "replica.lag_s": "Seconds by which the standby is behind; the last known value while it is cut off or away.",
    **{
        f"tls.{name}_days_left": f"Days until the certificate of the {name} server expires; unset where TLS is off."
        for name in ("database", "broker", "redis")
    },
    "clock.ahead_ms": "This machine's clock, compared with the database's; logs go by it, votes don't.",
    "clock.error_ms": "How far this worker's idea of the database's time may be off; it grows while that is away.",
    "clock.unknown": "1 while that is more than clock.max_error_s, or the time was never measured.",
    "outbox.waiting": "Notices that wait for RabbitMQ.",
    "logs.dropped": "Log lines lost since the start, because stdout and the file in its place took none.",
    "logs.diverted": "Log lines since the start that are in that file (log.fallback_folder).",
}

TIMINGS = {
    **{
        f"queues.{queue}.age_ms": f"From a node's publish to `{queue}` to the start of the actor."
        for queue in names.COMMAND_QUEUES
    },
    **{
        f"queues.{queue}.run_ms": f"How long an actor for `{queue}` ran, outages included."
        for queue in names.COMMAND_QUEUES
    },
    "database.statements.*": "A statement, until its rows are here; by the name of its constant in models/*_store.py.",
    "database.pool_wait_ms": "Taking a connection from the pool; above 1 ms one was waited for or opened.",
    "tallies.check_ms": "Counting a few polls' votes again.",
    "votes.merged": "Votes per transaction (a number, not milliseconds).",
    "votes.transaction_ms": "Locking, writing and committing one merged set of votes.",
    "database.probe_ms": "A question for the time, once a second.",
    "results.round_ms": "Reading, storing and emitting all polls that changed within a tick.",
}


def queue_label(queue: str) -> str:
    """What a queue is called in names of metrics: without what keeps apart those who share a broker."""
    return q_name(queue).rpartition(".")[2]


class WorkerMetrics(Metrics):
    """This process's metrics, for all of its threads. ``part``: which process of this worker it is."""

    names = Names(COUNTERS, GAUGES, TIMINGS)

    def __init__(self, settings: Settings, part: str) -> None:
        super().__init__(settings.metrics, "workers", f"{settings.worker.name}-{part}", shared=True)
