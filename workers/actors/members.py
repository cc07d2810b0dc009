"""Participants: stored in bulk; rooms, choices and browsers brought back for nodes that ask."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

import redis

from models import export_store, participant_store, poll_store
from models.database import Database, DatabaseUnavailable
from models.runtime.settings import WorkerSettings
from models.wire.commands import (
    ExportRows,
    FetchChoices,
    RegisterParticipants,
    Registration,
    RestoreBrowser,
    RestoreRoom,
)
from models.wire.notices import (
    BrowserRestored,
    ChoicesFetched,
    ExportedVote,
    RegistrationsStored,
    RoomRestored,
    RowsExported,
)
from workers.actors import REQUESTS, WRITES, Lane, declare
from workers.broker import CommandBroker
from workers.database_gate import DatabaseGate
from workers.errors import GiveBack, NeverValid
from workers.group_commit import GroupCommit
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.replica import ReplicaReads
from workers.requests import Requests
from workers.rooms import Rooms

log = logging.getLogger(__name__)

_EXPORT_ROWS_MOST = 5000
_PARK_S = 2.0  # registrations that wait out an outage must not fill the prefetch: requests come in on the same queue


class MemberActors:
    def __init__(
        self,
        settings: WorkerSettings,
        gate: DatabaseGate,
        replica: ReplicaReads,
        rooms: Rooms,
        notices: Notices,
        requests: Requests,
        metrics: WorkerMetrics,
        stopping: threading.Event,
    ) -> None:
        self._gate = gate
        self._replica = replica
        self._rooms = rooms
        self._notices = notices
        self._requests = requests
        self._metrics = metrics
        # hold_s 0: during an outage registrations step aside, so that their threads can answer requests.
        self._commit: GroupCommit[RegisterParticipants, None] = GroupCommit(
            "registration-flusher",
            self._store,
            weigh=lambda command: len(command.registrations),
            most=settings.merge_votes,
            hold_s=0,
            stopping=stopping,
        )
        self.start = self._commit.start
        self.close = self._commit.close

    def declare(self, broker: CommandBroker, lane: Lane) -> None:
        declare(broker, RegisterParticipants, self.register_participants, priority=WRITES, lane=lane, park_s=_PARK_S)
        declare(broker, RestoreRoom, self.restore_room, priority=REQUESTS, lane=lane)
        declare(broker, FetchChoices, self.fetch_choices, priority=REQUESTS, lane=lane)
        declare(broker, ExportRows, self.export_rows, priority=REQUESTS, lane=lane)
        declare(broker, RestoreBrowser, self.restore_browser, priority=REQUESTS, lane=lane)

    def register_participants(self, command: RegisterParticipants) -> None:
        """Store participants, merged with what other threads hold.

        Redis is told of their nicknames in any case: they were acked, and will be stored. The node is told when they
        are, and Redis knows.

        :raises NeverValid: one registration alone that can't be stored; of several, the others are stored first
        """
        try:
            self._commit.submit(command)
        except (GiveBack, DatabaseUnavailable):
            self._hold_nicknames(command)
            raise
        except Exception as error:
            self._hold_nicknames(command)
            self._one_by_one(command.registrations, error)
        # After the commit, also when it was said before: whoever reads the nicknames for an emptied Redis misses none.
        if self._hold_nicknames(command) and command.reply_to is not None:
            stored = tuple(one.participant_id for one in command.registrations)
            self._notices.answer(command.reply_to, RegistrationsStored(stored))

    def _hold_nicknames(self, command: RegisterParticipants) -> bool:
        return self._cached(lambda: self._rooms.hold_nicknames(command.registrations))

    def restore_room(self, request: RestoreRoom) -> None:
        def work() -> None:
            poll = self._gate.call(lambda db: poll_store.read_snapshot_by_code(db, request.room_code))
            if poll is not None:
                poll_id = poll.poll_id
                # Read chunk by chunk, each in a transaction of its own.
                nicknames = self._gate.call(lambda db: poll_store.read_nicknames(db, poll_id))
                self._cached(lambda: self._rooms.restore(poll, nicknames))
            else:
                # What Redis may have is of a poll that is gone.
                self._cached(lambda: self._rooms.forget(request.room_code))
            self._notices.answer(request.node_id, RoomRestored(request.request_id, poll))

        self._serve(request, work)

    def fetch_choices(self, request: FetchChoices) -> None:
        def work() -> None:
            choices = self._gate.call(
                lambda db: participant_store.read_choices(db, request.poll_id, request.participant_ids)
            )
            self._notices.answer(request.node_id, ChoicesFetched(request.request_id, tuple(choices)))

        self._serve(request, work)

    def restore_browser(self, request: RestoreBrowser) -> None:
        def work() -> None:
            roles = self._gate.call(lambda db: poll_store.read_browser_roles(db, request.browser_id))
            self._cached(lambda: self._rooms.restore_browser(request.browser_id, roles))
            self._notices.answer(request.node_id, BrowserRestored(request.request_id, tuple(roles)))

        self._serve(request, work)

    def export_rows(self, request: ExportRows) -> None:
        def work() -> None:
            limit = min(request.limit, _EXPORT_ROWS_MOST)

            def read(db: Database) -> tuple[ExportedVote, ...]:
                poll_store.demand_host(db, request.poll_id, request.token_generation)
                return export_store.read_page(db, request.poll_id, request.after, limit, everybody=request.everybody)

            try:
                rows = self._replica.read(request.poll_id, request.least_version, read)
            except poll_store.HostRevoked:
                self._notices.refuse(request.node_id, request.request_id, "not_host", "Only host can change poll state")
                return
            except poll_store.PollMissing:
                self._notices.refuse(request.node_id, request.request_id, "poll_not_found", "Poll not found")
                return
            self._notices.answer(request.node_id, RowsExported(request.request_id, rows))

        self._serve(request, work)

    def _cached(self, write: Callable[[], object]) -> bool:
        """With Redis away the answer alone still lets a node go on with whoever has a token. Whether it was written."""
        try:
            write()
        except redis.RedisError as error:
            self._metrics.count("restores.not_cached")
            log.warning("restore_not_cached", extra={"error": repr(error)})
            return False
        return True

    def _serve(
        self, request: RestoreRoom | FetchChoices | RestoreBrowser | ExportRows, work: Callable[[], None]
    ) -> None:
        self._requests.serve(request.node_id, request.request_id, request.deadline_us, work)

    def _store(self, commands: Sequence[RegisterParticipants]) -> list[None]:
        registrations = [one for command in commands for one in command.registrations]
        conflicts = self._gate.call(lambda db: participant_store.register(db, registrations))
        self._metrics.count("registrations.stored", len(registrations))
        self._metrics.count("registrations.conflicts", len(conflicts))
        return [None] * len(commands)

    def _one_by_one(self, registrations: Sequence[Registration], error: Exception) -> None:
        """Registering is idempotent, so those that were stored before the bad one do no harm when it comes again."""
        refused = 0
        for one in registrations:
            try:
                self._gate.call(partial(participant_store.register, registrations=[one]))
            except DatabaseUnavailable:
                raise
            except Exception as reason:
                refused, error = refused + 1, reason
        if refused:
            raise NeverValid("not_storable", f"{refused} of {len(registrations)}: {error}") from error
