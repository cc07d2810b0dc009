"""The node's end of the Socket.IO Redis manager: hears what workers and nodes emit, and writes it to local members."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from bidict import bidict
from engineio import packet as eio_packet
from redis.exceptions import RedisError
from socketio import AsyncRedisManager
from socketio import packet as sio_packet

from models.runtime import tls
from models.runtime.settings import RedisSettings
from models.wire import names
from models.wire.polls import masked
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import CacheUnavailable
from socket_tier.transport.direct_socket import DirectSocket
from socket_tier.transport.frames import text_frame

log = logging.getLogger(__name__)

_CHUNK = 500  # members written before other work gets its turn
_PING_EVERY_S = 0.5
_CANCEL_EVERY_S = 0.5
_DEAF_AFTER_S = 1.5
_NOBODY: bidict[str, str] = bidict()


class _Encoded:
    """One event, encoded once: a frame for clients on WebSocket, a packet for those that poll."""

    __slots__ = ("_text", "data", "frame")

    def __init__(self, data: Any, text: str) -> None:
        self.data = data
        self.frame = text_frame(b"4" + text.encode())
        self._text = text

    def packet(self) -> eio_packet.Packet:
        return eio_packet.Packet(eio_packet.MESSAGE, self._text)


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
        pipeline: RedisPipeline,
        metrics: NodeMetrics,
        *,
        route: Callable[[str, str, Any], bool],
        on_hearing: Callable[[bool], None],
    ) -> None:
        options = {
            "socket_timeout": settings.timeout_s,
            "socket_connect_timeout": settings.timeout_s,
            **tls.redis_options(settings),
        }
        super().__init__(settings.url, channel=names.FANOUT_CHANNEL, redis_options=options)
        self._pipeline = pipeline
        self._metrics = metrics
        self._route = route
        self._on_hearing = on_hearing
        self._reconnect_max_s = settings.reconnect_max_s
        self._timeout_s = settings.timeout_s
        self._own_channel = f"{self.channel}:{self.host_id}"
        self._heard_at = 0.0
        self.hearing = False
        self._rooms_of: dict[str, set[str | None]] = {}

    async def close(self) -> None:
        """End the listener that ``initialize`` has started."""
        while not self.thread.done():
            # Once may not be enough: Redis' client can take it for its own time-out, and the listener listens on.
            self.thread.cancel()
            await asyncio.wait([self.thread], timeout=_CANCEL_EVERY_S)
        await asyncio.gather(self.thread, return_exceptions=True)
        await self._drop_connection()

    async def deliver(self, room: str, event: str, data: Any) -> None:
        """Send an event to this node's members of a room: encoded once, written to each without a task.

        Large rooms are written in chunks, between which other work gets its turn.
        """
        await self._each(room, event, data, self._write)

    async def deliver_results(self, room: str, payload: dict[str, Any], *, soon: bool = False) -> None:
        """Like ``deliver`` for a vote-update: no client gets an older version after a newer one.

        Rooms are written in chunks, so a client can have been shown a newer version before its turn comes. ``soon``:
        each client gets it with its next frame, or when nothing more urgent is to be written, within about a second.
        """
        write = self._write_results_soon if soon else self._write_results
        await self._each(room, names.VOTE_UPDATE, payload, write)

    async def deliver_hidden_results(self, room_code: str, payload: dict[str, Any], *, soon: bool = False) -> None:
        """Like ``deliver_results`` to a poll's room of which only the members of the totals' room may see them."""
        seeing = names.totals_room(room_code)
        await self.deliver_results(seeing, payload, soon=soon)
        write = self._write_results_soon if soon else self._write_results
        await self._each(names.poll_room(room_code), names.VOTE_UPDATE, masked(payload), write, without=seeing)

    async def _each(
        self, room: str, event: str, data: Any, write: Callable[[Any, _Encoded], None], without: str | None = None
    ) -> None:
        members = self.local_members(room)
        if not members:
            return
        message = _Encoded(data, self._packet(event, data).encode())
        sockets = self.server.eio.sockets
        for position, eio_sid in enumerate(members, 1):
            socket = sockets.get(eio_sid)
            if socket is not None and not socket.closed and not (without and eio_sid in self.members(without).inverse):
                write(socket, message)
            if position % _CHUNK == 0:
                await asyncio.sleep(0)

    def local_members(self, room: str) -> list[str]:
        """Engine.io ids of this node's members of a room."""
        return list(self.members(room).values())

    def members(self, room: str) -> bidict[str, str]:
        """This node's members of a room: their engine.io ids by Socket.IO's."""
        members: bidict[str, str] | None = self.rooms.get("/", {}).get(room)
        return _NOBODY if members is None else members

    def write_results(self, socket: Any, payload: dict[str, Any]) -> None:
        """A vote-update to one client."""
        self._write_results(socket, _Encoded(payload, self._packet(names.VOTE_UPDATE, payload).encode()))

    def _write(self, socket: Any, message: _Encoded) -> None:
        if not isinstance(socket, DirectSocket):
            socket.queue.put_nowait(message.packet())
        elif socket.wire is None:
            socket.hold(message.packet())
        else:
            socket.push(message.frame)

    def _write_results(self, socket: Any, message: _Encoded) -> None:
        if self._shows(socket, message):
            self._write(socket, message)

    def _write_results_soon(self, socket: Any, message: _Encoded) -> None:
        if not self._shows(socket, message):
            return
        if isinstance(socket, DirectSocket) and socket.wire is not None:
            socket.push_results_soon(message.data["roomCode"], message.frame)
        else:
            self._write(socket, message)

    def _shows(self, socket: Any, message: _Encoded) -> bool:
        """Whether this client is to be shown this version; noted as shown then."""
        code, version = message.data["roomCode"], message.data["version"]
        if version < socket.session.get(code, 0):
            self._metrics.count("fanout.superseded")
            return False
        if isinstance(socket, DirectSocket) and not socket.has_caught_up(code):
            self._metrics.count("fanout.skipped")
            return False
        socket.session[code] = version
        return True

    def _packet(self, event: str, data: Any) -> sio_packet.Packet:
        return self.server.packet_class(sio_packet.EVENT, namespace="/", data=[event, data])

    async def broadcast(self, room: str, event: str, data: Any) -> None:
        """Send an event to a room's members on all nodes. With Redis away only this node's get it."""
        await self.emit(event, data, namespace="/", room=room)

    # python-socketio looks through every room when a client leaves: with a room per client that is quadratic in a storm
    # of reconnects. These three keep the reverse index.

    def basic_enter_room(self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_of.setdefault(sid, set()).add(room)

    def basic_leave_room(self, sid: str, namespace: str, room: str | None) -> None:
        super().basic_leave_room(sid, namespace, room)
        rooms = self._rooms_of.get(sid)
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                del self._rooms_of[sid]

    def basic_disconnect(self, sid: str, namespace: str, **_options: Any) -> None:
        # The room None, in which every client is, goes last: the others look the client up there.
        for room in sorted(self._rooms_of.get(sid, ()), key=lambda name: name is None):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for waiting in (self.pending_connect, self.pending_disconnect):
            if sid in waiting.get(namespace, ()):
                waiting[namespace].remove(sid)
                if not waiting[namespace]:
                    del waiting[namespace]

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        data = message["data"]
        payload = data[0] if isinstance(data, list) and len(data) == 1 else data
        if not self._route(message["event"], message["room"], payload):
            await self.deliver(message["room"], message["event"], payload)

    async def _publish(self, data: dict[str, Any]) -> None:
        try:
            await self._pipeline.call("PUBLISH", self.channel, self.json.dumps(data))
        except CacheUnavailable:
            # Counted and logged there. What goes this way is repaired by the next tick or the next read.
            return

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
                while True:
                    message = await self.pubsub.get_message(ignore_subscribe_messages=True, timeout=0.25)
                    if message is None:
                        # Only silence counts: a busy node has its own pings still unread behind other messages.
                        if time.monotonic() - self._heard_at > _DEAF_AFTER_S:
                            break
                        continue
                    if message["channel"] == self._own_channel.encode():
                        self._heard_at = time.monotonic()
                        pause_s = 0.1
                        self._set_hearing(True)
                    else:
                        yield message
                self._metrics.count("fanout.deaf")
            except (RedisError, OSError, TimeoutError) as error:
                self._metrics.count("fanout.lost")
                log.warning("fanout_lost", extra={"error": tls.explained("redis", error)})
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
