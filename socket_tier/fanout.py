"""The node's end of the Socket.IO Redis manager: hears what workers and nodes emit, and writes it to local members."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from engineio import packet as eio_packet
from redis.exceptions import RedisError
from socketio import AsyncRedisManager
from socketio import packet as sio_packet

from models.runtime.settings import RedisSettings
from models.wire import names
from socket_tier.metrics import NodeMetrics

log = logging.getLogger(__name__)

_CHUNK = 500  # members written before other work gets its turn
_PING_EVERY_S = 0.5
_DEAF_AFTER_S = 1.5


class Fanout(AsyncRedisManager):
    """Emits to rooms on all nodes through Redis, and to this node's members without it.

    Compatible with ``socketio.RedisManager(write_only=True)`` on the same channel, which the workers use. The listener
    hears its own pings; when it hears nothing for ``_DEAF_AFTER_S`` it connects anew, and says so by ``on_hearing``.
    ``route(event, room, data)`` sees each emitted event first and returns True when it has taken care of it.
    """

    name = "votemill"

    def __init__(
        self,
        settings: RedisSettings,
        metrics: NodeMetrics,
        *,
        route: Callable[[str, str, Any], bool],
        on_hearing: Callable[[bool], None],
    ) -> None:
        options = {"socket_timeout": settings.timeout_s, "socket_connect_timeout": settings.timeout_s}
        super().__init__(settings.url, channel=names.FANOUT_CHANNEL, redis_options=options)
        self._metrics = metrics
        self._route = route
        self._on_hearing = on_hearing
        self._reconnect_max_s = settings.reconnect_max_s
        self._timeout_s = settings.timeout_s
        self._own_channel = f"{self.channel}:{self.host_id}"
        self._heard_at = 0.0
        self.hearing = False

    async def deliver(self, room: str, event: str, data: Any) -> None:
        """Send an event to this node's members of a room: encoded once, written to each without a task."""
        members = list(self.get_participants("/", room)) if "/" in self.rooms else ()
        if not members:
            return
        packet = self.server.packet_class(sio_packet.EVENT, namespace="/", data=[event, data])
        message = eio_packet.Packet(eio_packet.MESSAGE, packet.encode())
        sockets = self.server.eio.sockets
        for position, (_sid, eio_sid) in enumerate(members, 1):
            socket = sockets.get(eio_sid)
            if socket is not None and not socket.closed:
                socket.queue.put_nowait(message)
            if position % _CHUNK == 0:
                await asyncio.sleep(0)

    async def broadcast(self, room: str, event: str, data: Any) -> None:
        """Send an event to a room's members on all nodes. With Redis away only this node's get it."""
        await self.emit(event, data, namespace="/", room=room)

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        data = message["data"]
        payload = data[0] if isinstance(data, list) and len(data) == 1 else data
        if not self._route(message["event"], message["room"], payload):
            await self.deliver(message["room"], message["event"], payload)

    async def _publish(self, data: dict[str, Any]) -> None:
        try:
            if not self.connected:
                self._redis_connect()
            async with asyncio.timeout(self._timeout_s * 2):
                await self.redis.publish(self.channel, self.json.dumps(data))
        except (RedisError, OSError, TimeoutError) as error:
            # What goes this way is repaired by the next tick or the next read.
            self._metrics.count("cache.failed")
            log.warning("fanout_publish_failed", extra={"error": repr(error)})

    async def _redis_listen_with_retries(self) -> AsyncIterator[dict[str, Any]]:
        pause_s = 0.1
        while True:
            pings: asyncio.Task[None] | None = None
            try:
                self._redis_connect()
                async with asyncio.timeout(self._timeout_s * 3):
                    await self.pubsub.subscribe(self.channel, self._own_channel)
                self._heard_at = time.monotonic()
                pings = asyncio.create_task(self._ping(), name="fanout-ping")
                while time.monotonic() - self._heard_at < _DEAF_AFTER_S:
                    message = await self.pubsub.get_message(ignore_subscribe_messages=True, timeout=0.25)
                    if message is None:
                        continue
                    if message["channel"] == self._own_channel.encode():
                        self._heard_at = time.monotonic()
                        pause_s = 0.1
                        self._set_hearing(True)
                    else:
                        yield message
                self._metrics.count("fanout.deaf")
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("fanout_lost", extra={"error": repr(error)})
            finally:
                if pings is not None:
                    pings.cancel()
            self._set_hearing(False)
            await self._drop_connection()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._reconnect_max_s)

    async def _ping(self) -> None:
        """Prove that this node hears: publish to itself. NUMSUB over-counts after a reconnect."""
        while True:
            try:
                async with asyncio.timeout(self._timeout_s * 2):
                    await self.redis.publish(self._own_channel, b"ping")
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("fanout_ping_failed", extra={"error": repr(error)})
            await asyncio.sleep(_PING_EVERY_S)

    async def _drop_connection(self) -> None:
        self.connected = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.pubsub.aclose()
                await self.redis.aclose()
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("fanout_close_failed", extra={"error": repr(error)})

    def _set_hearing(self, hearing: bool) -> None:
        if hearing != self.hearing:
            self.hearing = hearing
            log.warning("fanout_hearing" if hearing else "fanout_deaf")
            self._on_hearing(hearing)
