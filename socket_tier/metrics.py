"""Every metric of a node, with what a rise means."""

from collections.abc import Iterable

from models.runtime.metrics import Metrics

COUNTERS = {
    "votes.accepted": "votes acked after the broker's confirm: the service's work",
    "votes.refused": "votes refused before the queue: closed polls, bad input, limits, overload",
    "votes.rejected": "acked votes that a worker decided not to count: late ones; a jump means clocks or a slow close",
    "batches.published": "vote batches sent",
    "batches.failed": "vote batches not confirmed; their voters were told to try again",
    "publish.refused": "publishes refused at once because the broker was away, blocked or stalled",
    "publish.window_full": "publishes refused because too many were unconfirmed: the broker is slower than the votes",
    "publish.connection_lost": "connections to the broker lost",
    "publish.nacked": "messages the broker refused: a queue is full",
    "publish.returned": "messages that no queue took: topology is wrong",
    "publish.unconfirmed": "messages whose confirm never came in time",
    "joins.accepted": "participants joined or resumed",
    "joins.refused": "joins refused",
    "events.failed": "events that ended in an unexpected error: a bug, look at the log",
    "requests.failed": "HTTP requests that ended in an unexpected error",
    "shed.newcomers": "joins and new polls refused because this node is overloaded",
    "shed.read_only": "what would have changed something while an operator has switched to read-only",
    "shed.votes": "votes refused because this node's event loop is far behind",
    "audit.not_stored": "audit entries that the broker didn't take; the log has them",
    "limits.refused": "requests over a rate limit",
    "limits.not_shared": "rounds without the shared counters in Redis: each node limits by itself",
    "rooms.restored": "rooms read back from Postgres by the workers: a cold or emptied cache",
    "cache.failed": "Redis calls that failed or timed out",
    "fanout.deaf": "times the pub/sub listener was found deaf and connected anew",
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
    "security.foreign_participant": "votes with somebody else's participant id",
}
GAUGES = {
    "connections": "Socket.IO connections",
    "connections.open": "TCP connections: far more than Socket.IO's mean idle or slow ones",
    "messages.unfinished_bytes": "held of messages that have come in part; it stays near 0 but for slow senders",
    "rooms": "rooms with a member on this node",
    "buffer.held_votes": "votes waiting for their confirm",
    "publish.in_flight": "messages waiting for their confirm",
    "limits.awake": "addresses and rooms whose limits are in use; near 20 000 an attack from very many addresses",
    "logs.dropped": "log lines lost since the start, because stdout and the file in its place took none",
    "logs.diverted": "log lines since the start that are in that file (log.fallback_folder)",
    "loop.lag_ms": "how late the event loop runs: overload when it stays high",
}
TIMINGS = {
    "votes.ack_ms": "from the vote's arrival to its ack",
    "publish.confirm_ms": "from the publish to the broker's confirm",
    "batches.votes": "votes per batch (a number, not milliseconds)",
}


class NodeMetrics(Metrics):
    """The metrics client of the socket tier. A name that isn't listed above is a programming error."""

    def count(self, name: str, by: int = 1) -> None:
        assert name in COUNTERS, name
        super().count(name, by)

    def gauge(self, name: str, value: float) -> None:
        assert name in GAUGES, name
        super().gauge(name, value)

    def timing_ms(self, name: str, value: float) -> None:
        assert name in TIMINGS, name
        super().timing_ms(name, value)

    def timings_ms(self, name: str, values: Iterable[float]) -> None:
        assert name in TIMINGS, name
        super().timings_ms(name, values)
