"""Hosts' commands: polls, state changes; and what nodes report about a close."""

import logging
from uuid import uuid4

import redis

from models import final_store, poll_store
from models.database import DatabaseUnavailable
from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.wire.commands import ChangeState, ClaimHost, CreatePoll, NodeHeartbeat, PollFlushed, RevokeHosts
from models.wire.notices import HostsRevoked, NodeKnown, PollCreated, StateChanged
from models.wire.polls import PollSnapshot
from workers.actors import HOST_FIRST, WRITES, declare
from workers.broker import CommandBroker
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.requests import Requests
from workers.results import ResultsPublisher
from workers.rooms import Rooms

log = logging.getLogger(__name__)


class HostActors:
    def __init__(
        self,
        gate: DatabaseGate,
        rooms: Rooms,
        results: ResultsPublisher,
        notices: Notices,
        requests: Requests,
        metrics: WorkerMetrics,
        *,
        retention_days: int,
    ) -> None:
        self._gate = gate
        self._rooms = rooms
        self._results = results
        self._notices = notices
        self._requests = requests
        self._metrics = metrics
        self._retention_days = retention_days

    def declare(self, broker: CommandBroker) -> None:
        declare(broker, CreatePoll, self.create_poll, priority=HOST_FIRST)
        declare(broker, ChangeState, self.change_state, priority=HOST_FIRST)
        declare(broker, RevokeHosts, self.revoke_hosts, priority=HOST_FIRST)
        declare(broker, ClaimHost, self.claim_host, priority=WRITES)
        declare(broker, PollFlushed, self.note_flush, priority=WRITES)
        declare(broker, NodeHeartbeat, self.note_node, priority=WRITES)

    def create_poll(self, command: CreatePoll) -> None:
        """Store a poll, put its room into Redis and answer the node."""

        def work() -> None:
            poll = self._gate.call(lambda db: poll_store.create_poll(db, command, retention_days=self._retention_days))
            self._show(poll, new=True)
            self._metrics.count("polls.created")
            self._notices.answer(command.node_id, PollCreated(command.command_id, poll))

        self._requests.serve(command.node_id, command.command_id, command.deadline_us, work)

    def change_state(self, command: ChangeState) -> bool:
        """Apply a state change and tell every node, also when it changed nothing: that is the answer to a repeat.

        True when it has changed the poll.

        Done only when RabbitMQ has the notice; the command comes again otherwise, and applying it again is harmless.
        """
        try:
            change = self._gate.call(lambda db: poll_store.change_state(db, command, now_us()))
        except poll_store.PollMissing:
            self._notices.refuse(command.node_id, command.command_id, "poll_not_found", "Poll not found")
            return False
        poll = change.poll
        self._show(poll)
        self._results.mark([poll.poll_id], traced={poll.poll_id: [correlation_id.get()]})
        if change.revoked:
            self._notices.tell_all_surely(StateChanged(uuid4(), poll, change.previous_state))
            self._notices.refuse(command.node_id, command.command_id, "not_host", "Only host can change poll state")
            return False
        changed = StateChanged(command.command_id, poll, change.previous_state, correlation_id.get())
        self._notices.tell_all_surely(changed)
        if change.changed:
            self._metrics.count("states.changed")
            log.info("poll_state_changed", extra={"poll_id": poll.poll_id, "state": poll.state.value})
        return change.changed

    def revoke_hosts(self, command: RevokeHosts) -> None:
        """Revoke a poll's host tokens and tell every node; a repeat tells them again."""
        try:
            poll = self._gate.call(lambda db: poll_store.revoke_hosts(db, command, now_us()))
        except poll_store.PollMissing:
            self._notices.refuse(command.node_id, command.command_id, "poll_not_found", "Poll not found")
            return
        self._show(poll)
        self._results.mark([poll.poll_id])
        self._notices.tell_all_surely(HostsRevoked(command.command_id, poll))
        log.info("hosts_revoked", extra={"poll_id": poll.poll_id, "token_generation": poll.token_generation})

    def claim_host(self, command: ClaimHost) -> None:
        """Shown before it is done with: of a poll whose totals are final no later version would bring it to light."""
        self._gate.call(lambda db: poll_store.claim_host(db, command))
        for poll in self._gate.call(lambda db: poll_store.read_snapshots(db, [command.poll_id])):
            self._show(poll)
        self._results.mark([command.poll_id])

    def note_flush(self, report: PollFlushed) -> None:
        self._gate.call(lambda db: final_store.note_flush(db, report))

    def note_node(self, heartbeat: NodeHeartbeat) -> None:
        """Dropped while the database is away, so that heartbeats don't pile up: a newer one follows in a moment. The
        first one, of a node that may take votes, and the last one, of a node that has stopped, wait."""
        try:
            self._gate.call(lambda db: final_store.note_node(db, heartbeat))
        except DatabaseUnavailable:
            if heartbeat.stopped or heartbeat.first:
                raise
            self._metrics.count("heartbeats.dropped")
        else:
            if heartbeat.first:
                self._notices.answer(heartbeat.reply_to or heartbeat.node_id, NodeKnown(heartbeat.node_id))

    def _show(self, poll: PollSnapshot, *, new: bool = False) -> None:
        """Into Redis at once, so that a node that looks there after the notice finds it.

        When Redis is away, the results publisher does it later; while that is known, nobody waits for a time-out.
        """
        if not self._results.redis_ok:
            self._results.mark([poll.poll_id])
            return
        try:
            # A new poll has no nicknames that would have to be there first.
            if new:
                self._rooms.make_way(poll)
            self._rooms.store([poll], create=new)
        except redis.RedisError as error:
            self._results.redis_ok = False  # until the publisher, which tries this poll again, gets through
            self._results.mark([poll.poll_id])
            log.warning("room_not_shown", extra={"poll_id": poll.poll_id, "error": repr(error)})
