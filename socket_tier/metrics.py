"""Every metric of a node, with what it counts or what a rise means."""

from models.runtime import metrics, process_levels
from models.runtime.metrics import Metrics, Names
from socket_tier.refusals import Refused, unexpected

# Who was refused, or what failed, and which kinds of errors there are of it.
_SOURCES = {
    "requests": ("HTTP requests", ("client", "server", "timeout")),
    "connects": ("Socket.IO handshakes", ("client", "server")),
    "events": ("Socket.IO events other than votes", ("client", "server", "timeout")),
    "votes": ("votes", ("client", "server", "timeout")),
    "cache": ("calls to Redis", ("server", "timeout")),
    "broker": ("messages to RabbitMQ", ("server", "timeout")),
}
_KINDS = {
    "client": "refused for their sender's sake: wrong, not allowed, too many",
    "server": "not done for our sake: overload, an outage, a bug",
    "timeout": "that waited in vain for as long as they may",
}

LIMITS = (
    "connections-per-address", "events-per-session", "joins-per-address", "joins-per-room", "open-sessions-per-address",
    "polls-per-address", "polls-per-address-a-day", "requests-per-address", "requests-per-room", "votes-per-address",
    "votes-per-room", "votes-per-session",
)  # fmt: skip

COUNTERS = {
    **metrics.COUNTERS,
    **{
        f"errors.{source}.{kind}": f"{what} {_KINDS[kind]}"
        for source, (what, kinds) in _SOURCES.items()
        for kind in kinds
    },
    "refusals.*": "requests, handshakes, events and votes refused, by the `code` that the client is given",
    "requests.answered": "HTTP requests answered, but for health checks and Socket.IO's own",
    "connects.accepted": "Socket.IO sessions begun; far more than joins means that browsers lose their connection",
    "events.received": "Socket.IO events but votes: joins, state changes and what is not known",
    "events.acked": "those of them that were carried out",
    "votes.accepted": "votes acked after the broker's confirm: the service's work",
    "votes.refused": "votes not acked: closed polls, bad input, limits, overload, outages",
    "votes.rejected": "acked votes that a worker decided not to count: late ones; a jump means clocks or a slow close",
    "batches.published": "vote batches sent",
    "batches.failed": "vote batches not confirmed; their voters were told to try again",
    "publish.confirmed": "messages that the broker has on disk",
    "publish.refused": "publishes refused at once because the broker was away, blocked or stalled",
    "publish.window_full": "publishes refused because too many were unconfirmed: the broker is slower than the votes",
    "publish.connection_lost": "connections to the broker lost",
    "publish.nacked": "messages the broker refused: a queue is full",
    "publish.returned": "messages that no queue took: topology is wrong",
    "publish.unconfirmed": "messages whose confirm never came in time",
    "notices.deaf": "times the connection for notices heard nothing and was made anew; no vote was taken meanwhile",
    "notices.asked_again": "batches sent again to hear what became of them, after answers may have been missed",
    "joins.accepted": "participants joined or resumed",
    "joins.refused": "joins refused",
    "events.failed": "events that ended in an unexpected error: a bug, look at the log",
    "requests.failed": "HTTP requests that ended in an unexpected error",
    "nicknames.forgotten": "nicknames that this node keeps in mind no longer, since too many wait to be stored or told",
    "shed.newcomers": "joins and new polls refused because this node is overloaded",
    "shed.read_only": "what would have changed something while an operator has switched to read-only",
    "shed.votes": "votes refused because this node's event loop is far behind",
    "audit.not_stored": "audit entries that the broker didn't take; the log has them",
    **{f"limits.refused.{limit}": f"whatever was over the limit {limit}" for limit in LIMITS},
    "limits.not_shared": "rounds without the shared counters in Redis: each node limits by itself",
    "rooms.lost": "rooms whose poll is gone, with or without people in them: a restored database, or retention",
    "rooms.restored": "rooms read back from Postgres by the workers: a cold or emptied cache",
    "cache.failed": "Redis calls that failed or timed out",
    "fanout.lost": "connections of the pub/sub listener lost: Redis is away",
    "fanout.deaf": "times the pub/sub listener was found deaf and connected anew",
    "results.sent": "vote-updates sent to a room's members here, each room at most once per tick",
    "fanout.superseded": "results dropped because a newer version was already sent",
    "fanout.skipped": "results not written to clients that read slowly; they get the newest when they have caught up",
    "clients.dropped_slow": "clients disconnected because they didn't read",
    "clients.dropped_never_connected": "clients disconnected because they never finished connecting",
    "clients.dropped_left": "clients disconnected because they had left the namespace and stayed",
    "clients.dropped_silent": "clients disconnected because they answered no ping: gone, or in the middle of a frame",
    "clients.dropped_unfinished": "WebSockets ended because they held most of too many bytes of half-sent messages",
    "cut.slow_headers": "connections ended because a request's headers took too long, or never began: slowloris",
    "cut.large_headers": "connections ended because of too large headers",
    "cut.slow_body": "requests refused because their body took too long: slow senders",
    "cut.unfinished": "requests refused because they held most of too many bytes of half-sent messages",
    "cut.not_http": "connections ended because what came was not HTTP as we take it",
    "cut.pipelining": "connections ended because many requests were sent behind one that was being answered",
    "cut.unread": "connections ended because much was left unread for long: slow readers",
    "cut.gave_way": "connections without a request that made room for others: all places were taken",
    "cut.connections_full": "connections refused because all places were taken by others in use: add nodes",
    "cut.connections_of_address": "connections refused because their address had too many open",
    "receipts.forgotten": "vote-recorded events not sent because too many commits were outstanding",
    "secrets.changed": "times that other secrets were taken over",
    "secrets.failed": "times that the store of secrets was away or held what can't be used; those of before stay",
    "security.foreign_participant": "votes with somebody else's participant id",
}
GAUGES = {
    **process_levels.GAUGES,
    "connections": "Socket.IO connections",
    "connections.open": "TCP connections: far more than Socket.IO's mean idle or slow ones",
    "messages.unfinished_bytes": "held of messages that have come in part; it stays near 0 but for slow senders",
    "rooms": "rooms with a member on this node",
    "buffer.held_votes": "votes waiting for their confirm",
    "publish.in_flight": "messages waiting for their confirm",
    "publish.window_share": "of broker.window_messages in flight; at 1 votes are shed",
    "publish.away": "1 while nothing can be published: RabbitMQ is away, blocked or stalled",
    "notices.away": "1 while this node hears nothing of what is sent over RabbitMQ: it refuses votes",
    "cache.paused": "1 for the half second after a failed call during which Redis is not asked",
    "fanout.away": "1 while this node hears nothing of what is sent over Redis: live totals stand still here",
    "limits.awake": "addresses and rooms whose limits are in use; near 20 000 an attack from very many addresses",
    "logs.dropped": "log lines lost since the start, because stdout and the file in its place took none",
    "logs.diverted": "log lines since the start that are in that file (log.fallback_folder)",
    "tls.broker_days_left": "days until RabbitMQ's certificate expires; unset where TLS is off",
    "tls.redis_days_left": "days until Redis' certificate expires; unset where TLS is off",
    "clock.ahead_ms": "this machine's clock, compared with the processes' shared time; logs go by it, votes don't",
    "clock.error_ms": "how far the shared time as kept here may be off; it grows while Redis or workers are away",
    "clock.unknown": "1 while that is more than clock.max_error_s, or the time was never measured",
    "keys.signing_age_days": "age of the key that signs tokens; unset where nobody wrote down when it was made",
    "loop.lag_ms": "how late the event loop runs: overload when it stays high",
}
TIMINGS = {
    "votes.ack_ms": "from the vote's arrival to its ack",
    "votes.recorded_ms": "from the vote's arrival to the news of its commit",
    "results.screen_ms": "from a vote's arrival, at any node, to the totals with it on their way to the screens here",
    "events.ack_ms": "from an event to its ack, votes left out",
    "requests.answer_ms": "from the headers of an HTTP request to the end of its answer; health checks left out",
    "cache.round_ms": "round trips to Redis",
    "publish.confirm_ms": "from the publish to the broker's confirm",
    "batches.votes": "votes per batch (a number, not milliseconds)",
}


class NodeMetrics(Metrics):
    """The metrics client of the socket tier."""

    names = Names(COUNTERS, GAUGES, TIMINGS)

    def refused(self, source: str, error: BaseException, by: int = 1) -> None:
        """Somebody gets a refusal, or, when something broke, the one for that."""
        refusal = error if isinstance(error, Refused) else unexpected()
        self.count(f"refusals.{refusal.code}", by)
        self.count(f"errors.{source}.{refusal.kind}", by)
