"""Totals on their way from the fan-out to the screens of this node's clients."""

import logging
from typing import Any

from models.runtime.clock import now_us
from models.runtime.live_settings import LiveSettings
from models.wire import names
from models.wire.polls import PollState, hides_totals
from socket_tier.fanout import Fanout
from socket_tier.metrics import NodeMetrics
from socket_tier.presence import Presence
from socket_tier.rooms import Rooms
from socket_tier.socket_rooms import hearing_changed
from socket_tier.tasks import Tasks
from socket_tier.ticker import Ticker
from socket_tier.transport.direct_socket import DirectSocket

log = logging.getLogger(__name__)

_UNHURRIED_TICKS = 2  # with a tick of so many ordinary ones it doesn't matter that a client is shown totals a bit later


class Screens:
    """Takes in what the fan-out brings, and shows each room its newest totals at the tick's pace."""

    def __init__(
        self, rooms: Rooms, fanout: Fanout, presence: Presence, live: LiveSettings, tasks: Tasks, metrics: NodeMetrics
    ) -> None:
        self._rooms = rooms
        self._fanout = fanout
        self._presence = presence
        self._live = live
        self._tasks = tasks
        self._metrics = metrics
        self._traced: dict[str, list[str]] = {}  # room code -> whose results are to be shown there
        room = live.current.room
        self.ticker = Ticker(
            self._members_here,
            self._show,
            metrics,
            tick_s=room.tick_s,
            member_s=room.tick_per_member_s,
            frames_per_s=room.results_per_s,
        )

    def take(self, event: str, target: str, payload: Any) -> bool:
        """What comes over the fan-out: results wait for the tick, joins of large rooms for the hosts' pace. False when
        it is none of these, and goes straight to its room."""
        if event == names.VOTE_UPDATE:
            traced = payload.pop("traced", ())  # for the log alone: the totals are everybody's
            room = self._rooms.known(target)
            if room is not None:
                if traced and room.sids:
                    self._traced.setdefault(target, []).extend(traced)
                room.learn_totals(payload["version"], payload["votes"], payload["final"], _state_of(payload))
                room.participant_count = payload["participantCount"]
                # Whoever has come from another node may have been shown newer ones already.
                if room.sids and payload["version"] >= room.poll.version:
                    self.ticker.offer(target, payload["version"], payload)
            return True
        if event in (names.PARTICIPANT_JOINED, names.PARTICIPANT_LEFT):
            code = payload["roomCode"]
            if target == names.host_room(code):
                self._presence.count_changed(code, payload["count"])
                self._presence.host_feed.add(target, event, payload)
                return True
            self._presence.heard_count(code, payload["count"])
        return False

    def tell_hearing(self, hearing: bool) -> None:
        """The fan-out is lost or back: say so in every room here."""
        for room in self._rooms.in_use():
            event, payload = hearing_changed(room.code, hearing)
            self._tasks.start(self._fanout.deliver(room.code, event, payload), event)

    def pay(self, socket: DirectSocket, room_code: str) -> None:
        """A client that read slowly gets the newest results of a room as soon as it has caught up."""
        room = self._rooms.known(room_code)
        if room is None:
            socket.owed.discard(room_code)
            return
        seen = socket.sid in self._fanout.members(names.totals_room(room_code)).inverse
        self._fanout.write_results(socket, room.update(seen=seen))

    def _members_here(self, room_code: str) -> int:
        room = self._rooms.known(room_code)
        return len(room.sids) if room is not None else 0

    async def _show(self, room_code: str, payload: dict[str, Any]) -> None:
        """To the members here; in very large rooms only final totals are worth a system call of their own."""
        oldest_vote_us = payload.pop(names.OLDEST_VOTE_US, None)
        state = _state_of(payload)
        payload.pop(names.TOTALS_STATE, None)
        unhurried_tick_s = self._live.current.room.tick_s * _UNHURRIED_TICKS
        soon = not payload["final"] and self.ticker.tick_of(room_code) >= unhurried_tick_s
        if traced := self._traced.pop(room_code, None):
            shown = {"room_code": room_code, "version": payload["version"], "sockets": self._members_here(room_code)}
            log.info("results_shown", extra=shown | {"correlation_ids": traced})
        room = self._rooms.known(room_code)
        if room is not None and hides_totals(room.poll.rules, state or room.totals_state):
            await self._fanout.deliver_hidden_results(room_code, payload, soon=soon)
        else:
            await self._fanout.deliver_results(names.poll_room(room_code), payload, soon=soon)
        if oldest_vote_us is not None:
            self._metrics.timing_ms("results.screen_ms", max(0, now_us() - oldest_vote_us) / 1000)


def _state_of(totals: dict[str, Any]) -> PollState | None:
    """In which the poll had them. A worker of before doesn't say."""
    state = totals.get(names.TOTALS_STATE)
    return PollState(state) if state else None
