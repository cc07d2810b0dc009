"""Live, ready, and the detailed health of this node and of what it depends on."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from models.runtime.clock import now_us
from models.runtime.version import VERSION
from models.wire import names
from models.wire.notices import WorkerHeartbeat
from models.wire.polls import iso_time
from socket_tier.amqp.notices import NoticeInbox
from socket_tier.amqp.publisher import Publisher
from socket_tier.cache import Cache
from socket_tier.clock_watch import ClockWatch
from socket_tier.http import json_response
from socket_tier.refusals import CacheUnavailable
from socket_tier.rooms import Rooms
from socket_tier.sessions import Sessions

_WORKER_SILENT_S = 5.0
_KEPT_S = 1.0


class Readiness:
    """Whether the balancer should send anybody here. Shared dependencies don't count, or all nodes would leave."""

    def __init__(self) -> None:
        self.reason: str | None = "starting"

    async def ready(self, _request: web.Request) -> web.Response:
        if self.reason is None:
            return json_response({"ready": True})
        return json_response({"ready": False, "reason": self.reason}, 503, {"Retry-After": "1"})

    async def live(self, _request: web.Request) -> web.Response:
        return json_response({"alive": True})


class Workers:
    """The workers' heartbeats: how this node knows of them, and of the database."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, WorkerHeartbeat]] = {}

    def heard(self, beat: WorkerHeartbeat) -> None:
        self._latest[beat.worker] = (time.monotonic(), beat)

    def alive(self) -> list[WorkerHeartbeat]:
        now = time.monotonic()
        self._latest = {name: kept for name, kept in self._latest.items() if now - kept[0] < _WORKER_SILENT_S}
        return [beat for _, beat in self._latest.values()]

    def database_away(self) -> bool:
        """Every worker that lives says so. Without a worker nothing is known."""
        beats = self.alive()
        return bool(beats) and all(beat.database != "connected" for beat in beats)


class Health:
    """GET /api/health. Redis and the system are asked once a second, however many want to know."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        inbox: NoticeInbox,
        cache: Cache,
        workers: Workers,
        sessions: Sessions,
        rooms: Rooms,
        clock_watch: ClockWatch,
    ) -> None:
        self._publisher = publisher
        self._inbox = inbox
        self._cache = cache
        self._workers = workers
        self._sessions = sessions
        self._rooms = rooms
        self._clock_watch = clock_watch
        self._started = time.monotonic()
        self._asking = asyncio.Lock()
        self._answers: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._answered_at = 0.0

    async def handle(self, _request: web.Request) -> web.Response:
        redis, system = await self._asked()
        dependencies = {
            "database": self._database(),
            "redis": redis,
            "broker": self._broker(),
            "workers": self._worker_status(),
            "clock": self._clock(),
            "socketio": {
                "status": "connected",
                "connectedClients": len(self._sessions),
                "rooms": len(self._rooms.in_use()),
            },
        }
        status = _overall(dependencies)
        body = {
            "status": status,
            "timestamp": iso_time(now_us()),
            "uptime": round(time.monotonic() - self._started, 3),
            "version": VERSION,
            "dependencies": dependencies,
            "system": system,
        }
        if status == "unhealthy":
            return json_response(body, 503, {"Retry-After": "1"})
        return json_response(body)

    async def _asked(self) -> tuple[dict[str, Any], dict[str, Any]]:
        async with self._asking:
            if self._answers is None or time.monotonic() - self._answered_at > _KEPT_S:
                self._answers = await self._redis(), await asyncio.to_thread(_system)
                self._answered_at = time.monotonic()
            return self._answers

    def _database(self) -> dict[str, Any]:
        beats = self._workers.alive()
        if not beats:
            return {"status": "disconnected", "responseTime": None, "error": "no worker reports on it"}
        connected = [beat for beat in beats if beat.database == "connected"]
        if not connected:
            return {"status": "disconnected", "responseTime": None, "error": "workers can't reach it"}
        status = "connected" if len(connected) == len(beats) else "degraded"
        return {"status": status, "responseTime": round(max(beat.database_ms for beat in connected), 3)}

    async def _redis(self) -> dict[str, Any]:
        try:
            return {"status": "connected", "responseTime": round(await self._cache.ping_ms(), 3)}
        except CacheUnavailable:
            return {"status": "disconnected", "responseTime": None, "error": "no answer"}

    def _clock(self) -> dict[str, Any]:
        error_ms = self._clock_watch.error_ms()
        known = {} if error_ms is None else {"errorMs": round(error_ms, 3)}
        if self._clock_watch.in_bound():
            return {"status": "connected", "responseTime": None, **known}
        return {"status": "degraded", "responseTime": None, "error": "the time is not known well enough", **known}

    def _broker(self) -> dict[str, Any]:
        trouble = self._publisher.trouble()
        if trouble is not None:
            return {"status": "disconnected", "responseTime": None, "error": trouble}
        if not self._inbox.hearing:
            return {"status": "degraded", "responseTime": None, "error": "answers don't arrive"}
        return {"status": "connected", "responseTime": None}

    def _worker_status(self) -> dict[str, Any]:
        beats = self._workers.alive()
        served = {queue for beat in beats for queue in beat.queues}
        missing = [queue for queue in (names.VOTES_QUEUE, names.HOST_QUEUE, names.MEMBERS_QUEUE) if queue not in served]
        if missing:
            error = f"nobody works on: {', '.join(missing)}"
            return {"status": "degraded" if beats else "disconnected", "responseTime": None, "error": error}
        return {"status": "connected", "responseTime": None, "count": len(beats)}


def _overall(dependencies: dict[str, dict[str, Any]]) -> str:
    """Votes flow as long as the broker takes them; everything else catches up."""
    if dependencies["broker"]["status"] == "disconnected":
        return "unhealthy"
    return "healthy" if all(part["status"] == "connected" for part in dependencies.values()) else "degraded"


def _system() -> dict[str, Any]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "memory": {"used": used, "total": total, "percentage": round(used * 100 / total, 2)},
        "cpu": {"loadAverage": list(os.getloadavg())},
    }
