"""What a node does again and again, whatever its clients do."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from models.runtime.certificates import CertificateWatch
from models.runtime.clock import now_us
from models.runtime.process_levels import ProcessLevels
from models.runtime.settings import Settings
from models.wire.commands import NodeHeartbeat
from models.wire.loads import NodeLoad
from socket_tier.admin import Admin
from socket_tier.audit import Audit
from socket_tier.cache import Cache
from socket_tier.clock_watch import ClockWatch
from socket_tier.commands import Commands, NoAnswer
from socket_tier.health import Workers
from socket_tier.key_watch import KeyWatch
from socket_tier.metrics import NodeMetrics
from socket_tier.presence import Presence
from socket_tier.refusals import CacheUnavailable, Refused
from socket_tier.sessions import Sessions
from socket_tier.shedding import Shedding

log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
_FIRST_TRIES = 5
_FIRST_WAIT_S = 1.0
_LOAD_S = 1.0
_LAG_PROBE_S = 0.1


class Upkeep:
    """``levels`` reads the gauges that only the whole node knows."""

    def __init__(
        self,
        settings: Settings,
        node_id: UUID,
        *,
        commands: Commands,
        cache: Cache,
        workers: Workers,
        sessions: Sessions,
        shedding: Shedding,
        presence: Presence,
        key_watch: KeyWatch,
        audit: Audit,
        admin: Admin,
        clock_watch: ClockWatch,
        metrics: NodeMetrics,
        levels: Callable[[], dict[str, float | None]],
    ) -> None:
        self._settings = settings
        self._node_id = node_id
        self._commands = commands
        self._cache = cache
        self._workers = workers
        self._sessions = sessions
        self._shedding = shedding
        self._presence = presence
        self._key_watch = key_watch
        self._audit = audit
        self._admin = admin
        self._clock_watch = clock_watch
        self._metrics = metrics
        self._levels = levels

    def loops(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """By name; each runs until it is cancelled."""
        return [
            ("node-heartbeat", self._beat()),
            ("loop-lag", self._watch_loop()),
            ("load", self._tell_load()),
            ("clock", self._clock_watch.run()),
            ("housekeeping", self._keep_house()),
            ("metrics", self._report()),
            ("certificates", self._watch_certificates()),
        ]

    async def say_alive(self, *, stopped: bool = False) -> None:
        """To the workers: closed polls don't become final before each node that lives has sent all its votes."""
        if self._workers.database_away() and not stopped:
            return  # nobody could store it, and it would stand in the hosts' way
        if not self._clock_watch.known.is_set():
            return  # it says when
        try:
            await self._commands.send(NodeHeartbeat(self._node_id, self._settings.node.name, now_us(), stopped))
        except Refused as refusal:
            log.info("node_heartbeat_not_sent", extra={"code": refusal.code})

    async def become_known(self) -> None:
        """To the workers, before anybody votes here: a close waits for the nodes that they know.

        While the database or all workers are away the heartbeat waits in the queue, and workers read it before they
        call anything final. Those of a version that does not answer have stored it by the end of the wait.
        """
        heartbeat = NodeHeartbeat(self._node_id, self._settings.node.name, now_us(), first=True)
        unanswered = 0
        while unanswered < _FIRST_TRIES:
            try:
                await self._commands.request(heartbeat, self._node_id, _FIRST_WAIT_S)
                return
            except NoAnswer:
                unanswered += 1
                if self._workers.database_away() or (unanswered > 1 and not self._workers.alive()):
                    break
            except Refused as refusal:
                log.info("node_heartbeat_not_sent", extra={"code": refusal.code})
                await asyncio.sleep(_FIRST_WAIT_S)
        log.warning("node_not_known_yet", extra={"node_id": str(self._node_id)})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            await self.say_alive()

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_PROBE_S
            await asyncio.sleep(_LAG_PROBE_S)
            self._shedding.loop_was_late(max(0.0, loop.time() - due))

    async def _tell_load(self) -> None:
        while True:
            load = NodeLoad(self._settings.node.name, len(self._sessions), self._shedding.lag_s, self._presence.moving)
            try:
                await self._cache.tell_load(self._node_id, load, self._settings.room.node_timeout_s)
            except CacheUnavailable:
                pass  # counted there; the scaler changes nothing meanwhile
            await asyncio.sleep(_LOAD_S)

    async def _watch_certificates(self) -> None:
        servers = {"broker": self._settings.broker, "redis": self._settings.redis}
        watch = CertificateWatch(servers, self._metrics.gauge)
        while watch.servers:
            await asyncio.to_thread(watch.round)
            await asyncio.sleep(watch.EVERY_S)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self._settings.metrics.flush_s)
            self._key_watch.refresh()
            await self._audit.send()
            await self._admin.refresh()

    async def _report(self) -> None:
        """Also while Redis or the broker keeps everything else waiting."""
        process = ProcessLevels(self._settings.metrics.watch_folders)
        while self._metrics.on:
            await asyncio.sleep(self._settings.metrics.flush_s)
            for name, level in (process.read() | self._levels()).items():
                self._metrics.gauge(name, level)
            # In a thread, since a name may have to be looked up.
            await asyncio.to_thread(self._metrics.send, self._metrics.take())
