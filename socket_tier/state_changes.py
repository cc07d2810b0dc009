"""State changes as they reach this node: they hold here, the room is told, and after a close the node reports."""

import asyncio
import logging
from uuid import UUID

from models.runtime.clock import now_us
from models.wire import names
from models.wire.commands import PollFlushed
from models.wire.notices import PollClosing, StateChanged
from models.wire.polls import PollSnapshot, PollState
from socket_tier.cache import Cache
from socket_tier.commands import Commands
from socket_tier.fanout import Fanout
from socket_tier.refusals import CacheUnavailable, Invalid, Refused
from socket_tier.rooms import Room, Rooms
from socket_tier.socket_rooms import state_changed
from socket_tier.tasks import Tasks
from socket_tier.ticker import Ticker
from socket_tier.vote_buffer import VoteBuffer

log = logging.getLogger(__name__)

_FLUSH_TIMEOUT_S = 10
_REPORT_TRIES = 60
_CATCH_UP_TRIES = 600
_CATCH_UP_PAUSE_S = 1.0
_READ_AT_ONCE = 100
_CLOCK_S = 0.1


class StateChanges:
    """Applies what is heard; everything is ordered by the change's own time, so repeats and stragglers do no harm."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        cache: Cache,
        commands: Commands,
        buffer: VoteBuffer,
        fanout: Fanout,
        ticker: Ticker,
        tasks: Tasks,
        node_id: UUID,
    ) -> None:
        self._rooms = rooms
        self._cache = cache
        self._commands = commands
        self._buffer = buffer
        self._fanout = fanout
        self._ticker = ticker
        self._tasks = tasks
        self._node_id = node_id
        self._reporting: set[tuple[int, int]] = set()
        rooms.on_changed = self._announce
        self._to_read: dict[int, Room] = {}
        self._all_read = asyncio.Event()
        self._all_read.set()
        rooms.on_unread = self._read_soon

    def changed(self, notice: StateChanged) -> None:
        """A worker has committed a state change."""
        room = self._rooms.known(notice.poll.room_code)
        if room is not None:
            if room.poll.poll_id != notice.poll.poll_id:
                self._rooms.doubt(room.code, room.poll.poll_id)
            self._learn(room, notice.poll, notice.correlation_id)
        else:
            self._rooms.learn(notice.poll)
        self._report_if_closed(notice.poll)
        self._commands.answered(notice.request_id, notice)

    def closing(self, notice: PollClosing) -> None:
        """A close is on its way to the workers: votes from now on are too late."""
        room = self._rooms.known(notice.room_code)
        if room is None or room.poll.poll_id != notice.poll_id:
            self._rooms.note_closing(notice.poll_id, notice.at_us)
            return
        previous = room.state
        room.note_closing(notice.at_us)
        self._announce_if_changed(room, previous, notice.correlation_id)

    def close_asked(self, room: Room, notice: PollClosing) -> None:
        """A close was asked for at this node: no vote is taken here any more, unless it can't be sent."""
        previous = room.state
        room.ask_close(notice.at_us)
        self._announce_if_changed(room, previous, notice.correlation_id)

    async def run_clock(self) -> None:
        """Tell the rooms whose voting period's time is over; no vote is taken from that very moment on. The workers
        commit the close by themselves, when they can, and refuse what was received later."""
        while True:
            await asyncio.sleep(_CLOCK_S)
            for room in self._rooms.timed():
                previous = room.state
                room.ended_us = now_us()
                self._announce_if_changed(room, previous)

    def reopen_admission(self, room: Room, at_us: int) -> None:
        """The close asked for at this time could not be sent: it never was. Another that is on its way holds."""
        previous = room.state
        room.withdraw_close(at_us)
        self._announce_if_changed(room, previous)

    def catch_up(self) -> None:
        """Read the rooms in use anew: after a gap in the notices or in the fan-out something may have been missed.

        What can't be read now is tried again, until it is. A room that may have missed notices takes no votes before.
        """
        self._rooms.forget_unused()
        self._read_soon(*self._rooms.in_use(), *self._rooms.unread())

    async def read_anew(self) -> None:
        """``catch_up``; ends when each room in use has been read, or is gone."""
        self.catch_up()
        await self._all_read.wait()

    def _read_soon(self, *rooms: Room) -> None:
        for room in rooms:
            self._to_read[id(room)] = room
        if self._to_read and self._all_read.is_set():
            self._all_read.clear()
            self._tasks.start(self._read_rooms(), "catch-up")

    async def _read_rooms(self) -> None:
        tries = 0
        try:
            while self._to_read:
                rooms = list(self._to_read.values())
                self._to_read.clear()
                for start in range(0, len(rooms), _READ_AT_ONCE):
                    await asyncio.gather(*map(self._read_or_keep, rooms[start : start + _READ_AT_ONCE]))
                if not self._to_read:
                    return
                tries += 1
                if tries == _CATCH_UP_TRIES:
                    log.error("catch_up_takes_long", extra={"rooms": len(self._to_read)})
                await asyncio.sleep(_CATCH_UP_PAUSE_S)
        finally:
            self._all_read.set()

    async def _read_or_keep(self, room: Room) -> None:
        if not await self._read_again(room) and room.sids:
            self._to_read[id(room)] = room

    async def _read_again(self, room: Room) -> bool:
        gaps = self._rooms.gaps
        try:
            if not await self._read_cached(room):
                await self._rooms.restore(room.code)
                await self._read_cached(room)
        except Invalid as refusal:
            log.info("room_is_gone", extra={"code": refusal.code})  # the workers refuse what is voted in it
        except Refused as refusal:
            log.info("room_not_read", extra={"code": refusal.code})
            return False
        self._rooms.was_read(room, gaps)
        return not self._rooms.is_unread(room)

    async def _read_cached(self, room: Room) -> bool:
        """:raises CacheUnavailable: and nothing else is worth asking for"""
        try:
            cached = await self._cache.room(room.code)
        except CacheUnavailable:
            if self._rooms.is_unread(room):
                return False  # whether it is open is known to the workers as well
            raise
        if cached is None or cached.poll.poll_id != room.poll.poll_id:
            return False
        room.participant_count = cached.participant_count
        previous = room.state
        room.note_closing(cached.closing_us)
        if not self._learn(room, cached.poll):
            self._announce_if_changed(room, previous)
        self._report_if_closed(cached.poll)
        return True

    def _learn(self, room: Room, poll: PollSnapshot, correlation: str = "") -> bool:
        previous = room.state
        changed = room.learn(poll)
        if changed:
            self._announce(room, previous, correlation)
        if room.sids:
            # Whole: who may not see it is sorted out when it is delivered.
            whole = room.update(seen=True) | {names.TOTALS_STATE: room.totals_state.value}
            self._ticker.offer(room.code, room.poll.version, whole)
        return changed

    def _announce_if_changed(self, room: Room, previous: PollState, correlation: str = "") -> None:
        if room.state is not previous:
            self._announce(room, previous, correlation)

    def _announce(self, room: Room, previous: PollState, correlation: str = "") -> None:
        payload = state_changed(room, previous)
        if correlation:
            payload["correlationId"] = correlation
            shown = {"room_code": room.code, "state": room.state.value, "sockets": len(room.sids)}
            log.info("state_change_shown", extra=shown | {"correlation_id": correlation})
        self._tasks.start(self._fanout.deliver(room.code, names.POLL_STATE_CHANGED, payload), "announce-state")

    def _report_if_closed(self, poll: PollSnapshot) -> None:
        close = (poll.poll_id, poll.state_changed_at_us)
        if poll.state is PollState.CLOSED and not poll.final and close not in self._reporting:
            self._reporting.add(close)
            self._tasks.start(self._report_flush(*close), "report-flush")

    async def _report_flush(self, poll_id: int, closed_at_us: int) -> None:
        """Tell the workers how many batches to wait for. Repeated until it is durable: final depends on it."""
        try:
            for _ in range(_REPORT_TRIES):
                try:
                    batches, unclear = await self._buffer.flushed(poll_id, _FLUSH_TIMEOUT_S)
                    await self._commands.send(PollFlushed(poll_id, closed_at_us, self._node_id, batches, unclear))
                    return
                except (Refused, TimeoutError) as error:
                    log.warning("flush_report_delayed", extra={"poll_id": poll_id, "error": repr(error)})
                    await asyncio.sleep(1)
            log.error("flush_report_given_up", extra={"poll_id": poll_id})
        finally:
            self._reporting.discard((poll_id, closed_at_us))
